# SPDX-License-Identifier: Apache-2.0
"""Istio's rules of enrolment, a row each."""

import pytest

from nodeagent.model.opt_in import MODE_LABEL, REDIRECTION, SIDECAR, Standing, is_redirected, standing

AMBIENT, NONE, OTHER = ({MODE_LABEL: mode} for mode in ("ambient", "none", "Kmesh"))


@pytest.mark.parametrize(
    ("labels", "of_namespace", "expected"),
    [
        pytest.param({}, {}, Standing.NOT_LABELLED, id="nothing said"),
        pytest.param({}, AMBIENT, Standing.OPTED_IN, id="by its namespace"),
        pytest.param(AMBIENT, {}, Standing.OPTED_IN, id="by its own label"),
        pytest.param(AMBIENT, NONE, Standing.OPTED_IN, id="its own label beats its namespace's"),
        pytest.param(NONE, AMBIENT, Standing.OPTED_OUT, id="left out of a namespace"),
        pytest.param(NONE, {}, Standing.OPTED_OUT, id="left out of nothing"),
        pytest.param(OTHER, AMBIENT, Standing.OPTED_IN, id="a value that is nobody's leaves it to the namespace"),
        pytest.param(OTHER, {}, Standing.NOT_LABELLED, id="a value that is nobody's"),
        pytest.param({}, OTHER, Standing.NOT_LABELLED, id="a namespace of another mesh"),
        pytest.param({}, None, Standing.NAMESPACE_UNKNOWN, id="a namespace that is not known"),
        pytest.param(OTHER, None, Standing.NAMESPACE_UNKNOWN, id="nor decided by a value that is nobody's"),
        pytest.param(AMBIENT, None, Standing.OPTED_IN, id="its own label needs no namespace"),
        pytest.param(NONE, None, Standing.OPTED_OUT, id="nor does this one"),
        pytest.param({}, {MODE_LABEL: "Ambient"}, Standing.NOT_LABELLED, id="case matters"),
    ],
)
def test_labels(labels: dict[str, str], of_namespace: dict[str, str] | None, expected: Standing) -> None:
    assert standing("shop", labels, {}, of_namespace, is_host_network=False) is expected


def test_what_no_label_overrides() -> None:
    def judged(*, annotations: dict[str, str] | None = None, is_host: bool = False, excluded: str = "") -> Standing:
        return standing("shop", AMBIENT, annotations or {}, AMBIENT, is_host_network=is_host, excluded={excluded})

    assert judged() is Standing.OPTED_IN
    assert judged(annotations={SIDECAR: "{}"}) is Standing.SIDECAR
    assert judged(is_host=True) is Standing.HOST_NETWORK
    assert judged(is_host=True, annotations={SIDECAR: "{}"}, excluded="shop") is Standing.EXCLUDED_NS


@pytest.mark.parametrize(("value", "is_told"), [("enabled", True), ("pending", False), ("", False)])
def test_redirection(value: str, *, is_told: bool) -> None:
    assert is_redirected({REDIRECTION: value}) is is_told
    assert not is_redirected({})
