from __future__ import annotations

import json

import pytest

from hytrec_export.verification.findings import Finding, all_ok, failed, ok, report, skipped


@pytest.mark.parametrize(
    ("finding", "line"),
    [
        (ok("fine"), "ok      fine"),
        (failed("bad"), "not ok  bad"),
        (skipped("no GPU"), "skipped no GPU"),
    ],
)
def test_a_finding_is_one_line(finding: Finding, line: str) -> None:
    assert str(finding) == line


@pytest.mark.parametrize(
    ("findings", "well"),
    [([], True), ([ok("fine"), skipped("no GPU")], True), ([ok("fine"), failed("bad"), skipped("no GPU")], False)],
)
def test_what_is_skipped_is_no_fault(findings: list[Finding], well: bool) -> None:
    assert all_ok(findings) is well
    assert json.loads(report(findings, as_json=True))["ok"] is well


def test_a_report_is_a_line_each_or_one_object() -> None:
    findings = [ok("fine"), skipped("no GPU")]
    assert report(findings, as_json=False) == "ok      fine\nskipped no GPU"
    assert json.loads(report(findings, as_json=True))["findings"] == [
        {"status": "ok", "text": "fine"},
        {"status": "skipped", "text": "no GPU"},
    ]
