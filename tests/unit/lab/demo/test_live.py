# SPDX-License-Identifier: Apache-2.0
"""What the live view tells of the control plane's log: each line once, and only what is about the mesh's files."""

from pathlib import Path

from nodeagent.lab.demo.live import news

_TIME = "2026-01-02T03:04:05.678901Z"


def test_lines_about_the_files_are_told_once_and_when_they_are_complete(tmp_path: Path) -> None:
    path = tmp_path / "control-plane.log"
    changed = "/mesh.d/30-policy.yaml changed -> generation 2: 1 policy"
    with path.open("a", encoding="utf-8") as writer, path.open(encoding="utf-8") as log:
        assert list(news(log)) == []
        writer.write(f"{_TIME}\tinfo\tcontrolplane.run\t{changed}\n{_TIME}\tinfo\tcontrolplane.issue\tsigned\n")
        writer.write(f"{_TIME}\terror\tcontrolplane.run\t30-policy.yaml:6: er")
        writer.flush()
        assert list(news(log)) == [changed]
        assert list(news(log)) == []
        writer.write("ror\twith a tab\nno log line\n")
        writer.flush()
        assert list(news(log)) == ["30-policy.yaml:6: error\twith a tab"]
        assert list(news(log)) == []
