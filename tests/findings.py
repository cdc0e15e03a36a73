"""Output of the commands `doctor`."""

Findings = dict[str, tuple[str, str]]
"""Name -> `ok`, `PROBLEM` or `skipped`, and the text; in the order of the lines."""


def read_findings(result: tuple[int, str, str]) -> Findings:
    """Parse exit code, stdout and stderr of a command, which must agree."""
    code, out, _ = result
    *found, last = out.splitlines()
    parsed = {}
    for line in found:
        state, name, text = line[:8].strip(), *line[8:].split(": ", 1)
        assert state in ("ok", "PROBLEM", "skipped")
        assert name not in parsed
        parsed[name] = (state, text)
    count = len(problems(parsed))
    assert code == int(count > 0)
    assert last == (f"{count or 'no'} problem" + "s" * (count != 1))
    return parsed


def problems(findings: Findings) -> set[str]:
    """The names of the problems."""
    return {name for name, (state, _) in findings.items() if state == "PROBLEM"}
