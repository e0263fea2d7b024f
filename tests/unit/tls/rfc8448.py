# SPDX-License-Identifier: Apache-2.0
"""The parts of the example handshakes of RFC 8448 that lie behind the handshake: application secrets and records."""

from dataclasses import dataclass, field


def _hex(text: str) -> bytes:
    return bytes.fromhex(text)


@dataclass(frozen=True)
class Side:
    """`key` and `iv` are empty where the RFC leaves them out. `records` are whole, with their headers, in order."""

    secret: bytes
    key: bytes
    iv: bytes
    records: list[bytes]


@dataclass(frozen=True)
class Trace:
    section: str
    client: Side
    server: Side
    client_plain: bytes = b""
    server_plain: bytes = b""
    tickets: int = 0
    client_hello: bytes = field(default=b"", repr=False)


PLAIN = bytes(range(50))

SIMPLE = Trace(
    section="3, simple 1-RTT handshake",
    client=Side(
        _hex("9e40646ce79a7f9dc05af8889bce6552875afa0b06df0087f792ebb7c17504a5"),
        _hex("17422dda596ed5d9acd890e3c63f5051"),
        _hex("5b78923dee08579033e523d9"),
        [
            _hex(
                "1703030043a23f7054b62c94d0affafe8228ba55cbefacea42f914aa66bcab3f2b9819a8a5b46b395bd54a9a20441e2b62974e1f"
                "5a6292a2977014bd1e3deae63aeebb21694915e4"
            ),
            _hex("1703030013c9872760655666b74d7ff1153efd6db6d0b0e3"),
        ],
    ),
    server=Side(
        _hex("a11af9f05531f856ad47116b45a950328204b4f44bfb6b3a4b4f1f3fcb631643"),
        _hex("9f02283b6c9c07efc26bb9f2ac92e356"),
        _hex("cf782b88dd83549aadf1e984"),
        [
            _hex(
                "17030300de3a6b8f90414a97d6959c3487680de5134a2b240e6cffac116e95d41d6af8f6b580dcf3d11d63c758db289a01594025"
                "2f55713e061dc13e078891a38efbcf5753ad8ef170ad3c7353d16d9da773b9ca7f2b9fa1b6c0d4a3d03f75e09c30ba1e62972ac4"
                "6f75f7b981be63439b2999ce13064615139891d5e4c5b406f16e3fc181a77ca475840025db2f0a77f81b5ab05b94c01346755f69"
                "232c86519d86cbeeac87aac347d143f9605d64f650db4d023e70e952ca49fe5137121c74bc2697687e248746d6df353005f3bce1"
                "8696129c8153556b3b6c6779b37bf15985684f"
            ),
            _hex(
                "17030300432e937e11ef4ac740e538ad36005fc4a46932fc3225d05f82aa1b36e30efaf97d90e6dffc602dcb501a59a8fcc49c4b"
                "f2e5f0a21c0047c2abf332540dd032e167c2955d"
            ),
            _hex("1703030013b58fd67166ebf599d24720cfbe7efa7a8864a9"),
        ],
    ),
    client_plain=PLAIN,
    server_plain=PLAIN,
    tickets=1,
)

RESUMED = Trace(
    section="4, resumed 0-RTT handshake",
    client=Side(
        _hex("2abbf2b8e381d23dbebe1dd2a7d16a8bf484cb4950d23fb7fb7fa8547062d9a1"),
        b"",
        b"",
        [
            _hex(
                "1703030043b1cebce242aa201be9ae5e1cb2a9aa4b33d4e866af1edb0689192377"
                "41aa031d7a74d491c99b9d4e232b74206bc6fbaa04fe78be44a9b4f54320a17eb76992afac3103"
            ),
            _hex("17030300130facce3246bdfc6369838d6a82ae6de5d422dc"),
        ],
    ),
    server=Side(
        _hex("cc21f1bf8feb7dd5fa505bd9c4b468a9984d554a993dc49e6d285598fb672691"),
        _hex("e857c690a34c5a9129d833619684f95e"),
        _hex("0685d6b561aab9ef1013faf9"),
        [
            _hex(
                "1703030043275e9f20acff57bc000657d3867df039cccf79047884cf75771746f7"
                "40b5a83f462a0954c3581393a203a25a7dd14141ef1a37900cdb62ff62dee1ba39ab2590cbf194"
            ),
            _hex("17030300135b18af444e8e1eec7158fb62d8f2577d37ba5d"),
        ],
    ),
    client_plain=PLAIN,
    server_plain=PLAIN,
)

RETRIED = Trace(
    section="5, HelloRetryRequest",
    client=Side(
        _hex("75ecf4b972525aa0dcd057c9944d4cd5d82671d8843141d7dc2a4ff15a21dc51"),
        _hex("a7eb2a0525eb4331d58fcbf9f7ca2e9c"),
        _hex("86e8be227c1bd2b3e39cb444"),
        [_hex("17030300132ea6cdf749196023e2b3a49491695536426047")],
    ),
    server=Side(
        _hex("5c74f87df04225db0f8209c9de6429e49435fdefa7cad61864874d12f31cfc8d"),
        _hex("f27a5d97bd25550c4823b0f3e5d29388"),
        _hex("0dd631f7b71cbbc797c35fe7"),
        [_hex("1703030013519fc5075cb0884349759ff9ef6f011bb4c6f2")],
    ),
)

CLIENT_AUTHENTICATION = Trace(
    section="6, client authentication",
    client=Side(
        _hex("73c2e890fa8d067258d6d50fa92fe456b098cf00d9727eed91e8892ef4e6f860"),
        _hex("cdc09c806aa8f86dfcd51efc44a0c039"),
        _hex("6ef852e78b46d913668e53e7"),
        [_hex("1703030013e4ad7d44c29245339d355962c779b89ef44c58")],
    ),
    server=Side(
        _hex("c49a91faf57f8c545d5048a015bf849ff63942e4a7edcd319f8b438a97c52e21"),
        _hex("88b3123ddecadf8c1ba298e2c18176b0"),
        _hex("4e0978513f9de8327c08e4f3"),
        [_hex("17030300131decc5d6e64bba8a6f21b4fd077497da2a90cb")],
    ),
    client_hello=_hex(
        "16030100c0010000bc03036a472236328b83af40386d3a3e1f1ce624fa4ed89ab865a4ff0f4144ce3ae233000006130113031302"
    ),
)

COMPATIBILITY = Trace(
    section="7, compatibility mode",
    client=Side(
        _hex("743e4c6b56cf3909d1b06d01956ccd2c4b37758449aec41d98dae44924eaa299"),
        _hex("33d7f9709756c966488ad4438437e673"),
        _hex("c5f30d34b0e91b7d6c8eea65"),
        [_hex("17030300130f629155382dba23c4e2c5f7f84e6f2ed3083d")],
    ),
    server=Side(
        _hex("b6b8144aa335ed3059c0c9c8f0ecabf7afc94af6643bdecdfd9210188fab7451"),
        _hex("edc4cbd0041c28cc7167441d7ca53e6a"),
        _hex("bf6c7d8e0a9545b427dcf139"),
        [_hex("1703030013b7257b0fecaf69d4f09e3f891e2a25d1e28845")],
    ),
)

TRACES = [SIMPLE, RESUMED, RETRIED, CLIENT_AUTHENTICATION, COMPATIBILITY]
