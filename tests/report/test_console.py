import io
from typing import Any

import pytest
from rich.console import Console

from bnfold.decisions import Action, Decision, Reason
from bnfold.report import (
    ComparisonReport,
    Inspection,
    ModelSummary,
    NormalizationInfo,
    Report,
    print_comparison,
    print_console,
    print_inspection,
)

BEFORE = ModelSummary("in.onnx", "a" * 64, 41_234, 17, 3, 18, 9)
AFTER = ModelSummary("out.onnx", "b" * 64, 39_100, 15, 1, 18, 9)
FOLDED = Decision("bn1", "BatchNormalization", "", Action.FOLDED, target=("conv1",))
KEPT = Decision("bn3", "BatchNormalization", "", Action.KEPT, reason=Reason.BARRIER, detail="relu2 is a Relu")
KEPT_IN_BODY = Decision("bn2", "BatchNormalization", "if0/then_branch", Action.KEPT, reason=Reason.SHAPE_UNKNOWN)
LARGEST = {
    "output": "logits",
    "feed": "normal",
    "provider": "cpu",
    "optimization": "on",
    "problem": "",
    "max_abs": 3.14159e-07,
    "relative": 1.25e-07,
}


def report(**changes: Any) -> Report:
    fields: dict[str, Any] = {
        "verdict": "equivalent",
        "exit_code": 0,
        "decisions": (FOLDED, KEPT_IN_BODY, KEPT),
        "input": BEFORE,
        "output": AFTER,
        "published": "out.onnx",
        "verification": {"verdict": "equivalent", "measurements": [LARGEST], "largest": LARGEST},
    }
    return Report(**(fields | changes))


def drawn(draw: Any, subject: Any, verbosity: int = 0, width: int = 80) -> str:
    stream = io.StringIO()
    draw(subject, Console(file=stream, width=width, highlight=False), verbosity)
    return "\n".join(line.rstrip() for line in stream.getvalue().splitlines())


def test_the_summary_is_a_table_what_stays_and_the_verdict() -> None:
    assert drawn(print_console, report()) == "\n".join(
        [
            "                    before   after",
            "nodes                   17      15",
            "BatchNormalization       3       1",
            "bytes               41,234  39,100",
            "kept bn2 (if0/then_branch): The rank or shape of a value on the way is unknown. [SHAPE_UNKNOWN]",
            f"kept bn3: {Reason.BARRIER.sentence} [BARRIER] relu2 is a Relu",
            (
                'equivalent: largest deviation 3.14e-07 (1.25e-07 of the largest value) in output "logits"'
                ", feed normal, cpu, optimization on; 1 comparison"
            ),
            "written: out.onnx",
        ]
    )


def test_every_decision_measurement_and_note_with_v() -> None:
    verification = {"measurements": [LARGEST], "largest": LARGEST, "notes": ["batch 2 was\nrefused"]}
    text = drawn(print_console, report(verification=verification), verbosity=1)
    assert "\nnote: batch 2 was refused\n" in text
    assert "\nfolded bn1 into conv1\n" in text
    assert text.count('in output "logits"') == 2


def test_what_many_stay_for_is_said_once() -> None:
    many = [
        Decision(f"bn{i}", "BatchNormalization", "if0/body" * (i == 1), Action.KEPT, reason=Reason.OTHER_CONSUMER)
        for i in range(62)
    ]
    few = [Decision(f"q{i}", "Mul", "", Action.KEPT, reason=Reason.BARRIER, detail=f"r{i}") for i in range(3)]
    subject = report(decisions=(FOLDED, *many[:40], *few, *many[40:]))
    lines = [line for line in drawn(print_console, subject).splitlines() if line.startswith("kept")]
    assert lines == [
        f"kept 62: {Reason.OTHER_CONSUMER.sentence} [OTHER_CONSUMER] bn0, bn1 (if0/body) and 60 more; -v for all",
        *(f"kept q{i}: {Reason.BARRIER.sentence} [BARRIER] r{i}" for i in range(3)),
    ]
    every = [line for line in drawn(print_console, subject, verbosity=1).splitlines() if line.startswith("kept")]
    assert len(every) == 65
    assert all("more" not in line for line in every)


def test_a_model_without_anything_to_fold_is_said_to_be_one() -> None:
    assert "\nnothing to fold: the model has no BatchNormalization" in drawn(print_console, report(decisions=()))
    assert "nothing to fold" not in drawn(print_console, report())


def test_where_no_pass_looked_for_normalizations_none_is_said_to_be_missing() -> None:
    ran = {"preserves": "algebraic", "seconds": 0.0, "changes": {}, "verdict": "unchanged", "detail": ""}
    for name, said in (("fold-batch-norm", True), ("own", False)):
        text = drawn(print_console, report(decisions=(), passes=({"name": name, **ran},)))
        assert ("nothing to fold" in text) is said


@pytest.mark.parametrize("draw", [print_console, print_comparison, print_inspection])
def test_quiet_draws_nothing(draw: Any) -> None:
    subject = {print_console: report(), print_inspection: Inspection(BEFORE, ())}.get(
        draw, ComparisonReport("equivalent", 0, "a", "b", {})
    )
    assert drawn(draw, subject, verbosity=-1) == ""


def test_a_narrow_or_missing_terminal_never_cuts_a_sentence() -> None:
    wide, narrow = drawn(print_console, report(), width=500), drawn(print_console, report(), width=24)
    for line in wide.splitlines()[4:]:
        assert line in narrow.splitlines()
    assert "41,234  39,100" in narrow
    assert narrow.isascii()


def test_names_cannot_write_to_the_terminal() -> None:
    nasty = Decision("bn\x1b[2J\n[red]x[/red]:smile:", "BatchNormalization", "", Action.KEPT, reason=Reason.BARRIER)
    text = drawn(print_console, report(decisions=(nasty,), published="o\udce9.onnx"))
    assert r"kept bn\x1b[2J\n[red]x[/red]:smile:: " in text
    assert r"written: o\udce9.onnx" in text
    assert "\x1b" not in text


COMMANDS = {  # a name, and how it is written at the beginning of a line and elsewhere
    "::error::x": (r":\:error::x", "::error::x"),
    "  ::stop-commands::x": (r"  :\:stop-commands::x", "  ::stop-commands::x"),
    "x##[error]y": (r"x##\[error]y", r"x##\[error]y"),
    "##vso[task.complete]": (r"##vso\[task.complete]", r"##vso\[task.complete]"),
    "a::b": ("a::b", "a::b"),
    "#[0]": ("#[0]", "#[0]"),
    "##a:b": ("##a:b", "##a:b"),
}


@pytest.mark.parametrize("name", COMMANDS)
def test_names_cannot_give_orders_to_a_ci_service(name: str) -> None:
    first, inside = COMMANDS[name]
    info = NormalizationInfo(name, "Mul", "", "inference", None, None, None, f"Relu {name}", FOLDED)
    text = drawn(print_inspection, Inspection(BEFORE, (info,)), width=500)
    assert f"\n{first}: Mul, inference mode" in text
    assert f"\n  fed by Relu {' '.join(inside.split())}" in text
    nasty = Decision(name, "BatchNormalization", "", Action.KEPT, reason=Reason.BARRIER)
    assert f"\nkept {inside}: " in drawn(print_console, report(decisions=(nasty,)))


def test_what_was_not_published_is_not_called_written() -> None:
    text = drawn(print_console, report(verdict="not-equivalent", exit_code=1, published=None, explanation="y is off."))
    assert "written" not in text
    assert text.splitlines()[-1].startswith("not-equivalent: largest deviation 3.14e-07")
    assert "y is off." not in text  # the error says it


def test_a_dry_run_says_that_nothing_was_written() -> None:
    text = drawn(print_console, report(published=None, options={"dry_run": True}))
    assert text.splitlines()[-1] == "nothing was written: this was a dry run"


@pytest.mark.parametrize(
    ("judgement", "judged"),
    [
        ({"agrees": True, "rule": "tolerance", "limit": 0.00036315}, ": agrees (tolerance, at most 0.000363)"),
        ({"agrees": False, "rule": "noise", "limit": 1.0}, ": DIFFERS (noise, at most 1)"),
        ({"agrees": True, "rule": "exact", "limit": 0.0}, ": agrees (exact)"),
    ],
)
def test_each_measurement_says_how_it_was_judged(judgement: dict[str, Any], judged: str) -> None:
    verification = {"measurements": [LARGEST | {"judgement": judgement}], "largest": LARGEST}
    text = drawn(print_console, report(verification=verification), verbosity=1)
    assert text.splitlines()[-3].endswith(f"optimization on{judged}")


def test_a_detail_without_a_reason_is_set_apart() -> None:
    decision = Decision("bn", "BatchNormalization", "", Action.FOLDED, ("conv", "add"), detail="its shift stays")
    assert "\nfolded bn into conv, add; its shift stays\n" in drawn(print_console, report(decisions=(decision,)), 1)


def test_no_verification_is_said_as_such() -> None:
    text = drawn(print_console, report(verdict="not-verified", verification=None, explanation="Not asked for."))
    assert text.splitlines()[-3:] == ["not-verified", "Not asked for.", "written: out.onnx"]


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"max_abs": None, "relative": None}, "largest deviation infinite in output"),
        ({"problem": "its shape is (1,), not (2,)"}, "optimization on: its shape is (1,), not (2,)"),
    ],
)
def test_a_deviation_that_is_no_number(changes: dict[str, Any], line: str) -> None:
    largest = LARGEST | changes
    text = drawn(print_console, report(verdict="not-equivalent", verification={"largest": largest}))
    assert line in text


def test_a_comparison_is_its_verdict() -> None:
    subject = ComparisonReport("equivalent", 0, "a.onnx", "b.onnx", {"measurements": [LARGEST], "largest": LARGEST})
    assert drawn(print_comparison, subject).startswith("equivalent: largest deviation 3.14e-07")


CUDA, CPU = "CUDAExecutionProvider", "CPUExecutionProvider"
STRICT = {"provider": "cuda", "optimization": "off", "precision": "strict", "effective": [CUDA, CPU]}
PLACEMENTS = [
    STRICT | {"nodes": {CPU: {"Shape": 1, "Gather": 2}, CUDA: {"Conv": 1000, "Relu": 7}}},
    STRICT | {"optimization": "on", "nodes": {CUDA: {"Conv": 1}}},
    STRICT | {"optimization": "on", "precision": "deploy", "nodes": {}},
]
COARSE = LARGEST | {"provider": "cuda", "precision": "deploy", "max_abs": 0.5, "relative": 0.25}


def test_each_provider_has_a_line_and_its_own_defaults_one_beside_the_verdict() -> None:
    judged = [
        LARGEST | {"provider": "cuda", "precision": "strict", "relative": None, "judgement": None},
        COARSE | {"relative": 0.3, "judgement": {"agrees": True, "rule": "noise", "limit": 1.0}},
        COARSE | {"judgement": {"agrees": False, "rule": "tolerance", "limit": 0.01}},
    ]
    verification = {"measurements": judged, "largest": LARGEST, "placements": PLACEMENTS}
    subject = ComparisonReport("equivalent", 0, "a.onnx", "b.onnx", verification)
    first = f"cuda, optimization off: 1,007 nodes on {CUDA}, 3 nodes on {CPU} (1 Shape, 2 Gather)"
    beside = (
        'beside the verdict: largest deviation 0.5 (0.25 of the largest value) in output "logits", feed normal, '
        "cuda at its own defaults, optimization on: DIFFERS (tolerance, at most 0.01)"
    )
    assert drawn(print_comparison, subject).splitlines()[1:] == [first, beside]
    assert drawn(print_comparison, subject, verbosity=1).splitlines()[-4:] == [
        first,
        f"cuda, optimization on: 1 node on {CUDA}",
        f"cuda at its own defaults, optimization on: 0 nodes on {CUDA}",
        beside,
    ]


def test_an_inspection_lists_what_a_normalization_is() -> None:
    info = NormalizationInfo(
        "bn3", "BatchNormalization", "body", "inference", 8, 1e-5, 0.8999999761581421, "Relu relu2", KEPT
    )
    bare = NormalizationInfo("m", "Mul", "", "inference", None, None, None, "graph input x", FOLDED)
    assert drawn(print_inspection, Inspection(BEFORE, (info, bare))) == "\n".join(
        [
            "in.onnx: 17 nodes, opset 18, IR version 9, 41,234 bytes",
            "",
            "bn3 (body): BatchNormalization, inference mode, 8 channels",
            "  epsilon 1e-05, momentum 0.9 (PyTorch: 0.1)",
            "  fed by Relu relu2",
            f"  would be kept: {Reason.BARRIER.sentence} [BARRIER] relu2 is a Relu",
            "",
            "m: Mul, inference mode",
            "  fed by graph input x",
            "  would be folded into conv1",
            "",
            "2 normalizations: 1 would be kept, 1 would be folded",
        ]
    )


def test_a_terminal_gets_a_coloured_verdict_and_a_file_does_not() -> None:
    stream = io.StringIO()
    print_console(report(), Console(file=stream, force_terminal=True, color_system="standard", width=80))
    assert "\x1b[1;32mequivalent" in stream.getvalue()
    assert "\x1b" not in drawn(print_console, report())
