"""Reports to render: those that format 1 wrote when it was new, one with a little of everything, and hostile ones."""

import copy
import json
from pathlib import Path
from typing import Any

OLD = sorted((Path(__file__).parent / "reports/format-1").glob("*.json"))

HOSTILE = {
    "markup": "<script>alert(1)</script><img src=x onerror=alert(2)>",
    "end of an attribute": "\"'><b onmouseover=alert(1)>",
    "end of CDATA": "]]>-->",
    "template": "{{ 7 * 7 }}{% raw %}${7}",
    "markdown": "a|b`c` **d** _e_ [x](https://evil.example) ![i](u) # h\n- www.evil.example @user #12 :smile: ~s~",
    "workflow command": "\n::error::x%0A::add-mask::y\r\n::stop-commands::z",
    "right to left": "\u202eexe.evil\u202c \u2066x",
    "control": "\x00\x1b[31m\x07\x7f\x85\ufffe\uffff",
    "lone surrogate": "\ud800\udfff\ude00",
    "long": "x" * 10_000,
    "empty": "",
    "Hebrew": "שלום",
}


def old(name: str) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((OLD[0].parent / f"{name}.json").read_text(encoding="utf-8"))
    return content


def decision(node: str, action: str = "folded", reason: str = "", detail: str = "", scope: str = "") -> dict[str, Any]:
    told = {"code": reason, "sentence": f"The sentence of {reason}."} if reason else None
    target = [] if reason else [f"into_{node}"]
    fields = {"node": node, "op_type": "BatchNormalization", "scope": scope, "action": action}
    return fields | {"target": target, "reason": told, "detail": detail}


def everything() -> dict[str, Any]:
    """A report with every key that there is."""
    report = old("recalibrated")
    first = report["verification"]["measurements"][0]
    deploy = copy.deepcopy(first) | {"provider": "openvino", "precision": "deploy", "max_abs": 0.5, "relative": 0.25}
    deploy["judgement"] = {"agrees": False, "rule": "tolerance", "limit": 0.001}
    broken = copy.deepcopy(first) | {"output": "z", "stage": "behind", "problem": "its shape is (1,), not (2,)"}
    broken["judgement"] = {"agrees": False, "rule": "structure", "limit": "Infinity"}
    noisy = copy.deepcopy(first) | {"output": "labels", "argmax_agreement": 0.9996, "new_nonfinite": 3}
    noisy["noise"] = dict.fromkeys(("candidate_max", "candidate_rms", "original_max", "original_rms", "floor"), 1e-7)
    noisy["noise"] |= {"amplification": 3000.0, "instrument": "shaken"}
    noisy["made_in"] = "float16"
    report["verification"]["measurements"] += [deploy, broken, noisy]
    report["verification"]["notes"] = ["a note"]
    report["verification"]["sizes"] = ["N (axis 0 of 'x') = 1: chosen"]
    report["verification"]["proofs"] = [
        {"rewrites": ["bn1"], "standing": "holds", "reason": "", "used": 0.25, "max_abs": 1e-9},
        {
            "output": "y",
            "scope": "",
            "nodes": ["conv", "bn2", "bn3"],
            "normalizations": ["bn2", "bn3"],
            "standing": "undecided",
            "reason": "Custom is not known",
            "used": None,
            "max_abs": 0.0,
        },
    ]
    unproved = {"output": "y", "scope": "", "nodes": ["conv", "bn2", "bn3"], "reason": "Custom is not known"}
    report["verification"]["by_running_only"] = [unproved]
    report["verification"]["shown"] = "1 of 2 changes is proved. Compared by running only: what became of y."
    report["verification"]["proof_rule"] = "without-limits"
    report["verification"]["spent"] = {"proofs": 2, "sessions": 3, "runs": 27}
    report["verification"]["placements"] = [
        {
            "provider": "openvino",
            "optimization": "on",
            "precision": "strict",
            "effective": ["OpenVINOExecutionProvider", "CPUExecutionProvider"],
            "nodes": {"OpenVINOExecutionProvider": {"Conv": 5, "Relu": 2}, "CPUExecutionProvider": {"NonZero": 1}},
        }
    ]
    report["decisions"][0]["partly"] = True
    report["decisions"] += [
        decision("kept1", "kept", "BARRIER", "relu is Relu", "if0/then"),
        decision("kept2", "kept", "BARRIER") | {"walk": ["what was tried"]},
        decision("kept3", "kept", "SHAPE_UNKNOWN"),
    ]
    left = {"node": "kept1", "scope": "if0/then", "reason": "NO_PRODUCER", "detail": ""}
    report["recalibration"]["left_out"] = [left]
    unknown = report["recalibration"]["drift"][0] | {"node": "new", "mean": None, "deviation": None}
    report["recalibration"]["drift"].append(unknown)
    report["fitted"] = [{"node": "bn", "groups": 2, "before": 0.8, "after": 0.125}]
    guilty = [{"node": "bn7", "scope": ""}, {"node": "bn8", "scope": "if0/then"}]
    report["attribution"] = {"guilty": guilty, "passes": ["wrong"], "cleared": True, "tried": 9, "rolled_back": True}
    report["notes"] = ["--keep bn* matches no normalization."]
    report["stored"] = [{"value": "size", "scope": "if.then_branch"}]
    folded = {"removed": {"count": 5, "names": ["bn1"]}, "weights": {"count": 1, "names": ["conv"]}}
    others = {kind: {"count": 1, "names": ["a"]} for kind in ("added", "rewired", "changed", "other")}
    run = {"name": "fold-batch-norm", "preserves": "algebraic", "seconds": 0.125, "changes": folded}
    report["passes"] = [
        run | {"verdict": "proved", "detail": ""},
        run | {"name": "own", "changes": others, "verdict": "compared", "detail": "compared by running only: y"},
        run | {"name": "wrong", "verdict": "taken-back", "detail": ""},
        run | {"name": "idle", "changes": {}, "verdict": "unchanged", "detail": ""},
    ]
    report["accuracy"] = {"output": "y", "labels": 1000, "right": {"before": 995, "after": 990}, "problem": ""}
    layer = {"reference": "c", "candidate": "c", "node": "conv", "agrees": True, "max_abs": 1e-7, "relative": 1e-8}
    layer |= {"new_nonfinite": 0, "problem": ""}
    first = layer | {"reference": "r", "node": "relu", "agrees": False, "max_abs": None, "problem": "it is int8"}
    inside = {"feed": "user-0", "setting": "cpu", "sentence": "The first that diverges is 'r'."}
    report["verification"]["layers"] = inside | {"first": first, "layers": [layer, first]}
    report["verification"]["tolerance"] = {"rtol": 0.1, "atol": None, "outputs": {"y": {"rtol": 0.1, "atol": 0.0}}}
    versions = {"numpy": "2.0.1", "onnx": "1.23.0", "onnxruntime": "1.24.0"}
    machine = {"python": "3.12.1", "platform": "Linux 6.1 x86_64", "processor": "Some CPU"}
    report["environment"] = machine | {"packages": versions}
    return report


def hostile(text: str) -> dict[str, Any]:
    """`everything`, with every name in it replaced."""
    report = everything()
    report["input"]["path"] = report["output"]["path"] = report["published"] = text
    report["explanation"] = text
    report["exit_code"] = 1
    for each in report["decisions"]:
        each |= {"node": text, "scope": text, "target": [text, text], "detail": text, "op_type": text}
    for each in report["verification"]["measurements"]:
        each |= {"output": text, "feed": text, "problem": each["problem"] and text}
    report["notes"] = [text]
    report["verification"] |= {"notes": [text], "sizes": [text], "feeds": [{"name": text, "shapes": {text: [1, 2]}}]}
    report["verification"]["proofs"][1] |= {"normalizations": [text], "standing": "broken", "reason": text}
    report["verification"]["proofs"][1] |= {"output": text, "scope": text}
    report["verification"]["shown"] = text
    report["verification"]["by_running_only"] = [dict.fromkeys(("output", "scope", "reason"), text) | {"nodes": [text]}]
    report["verification"]["placements"][0]["nodes"] = {text: {text: 1}}
    for each in (*report["recalibration"]["drift"], *report["recalibration"]["left_out"], *report["fitted"]):
        each["node"] = text
    for each in report["training_distance"]:
        each["output"] = text
    report["attribution"] |= {"guilty": [{"node": text, "scope": text}], "passes": [text]}
    for each in report["passes"]:
        each |= {"name": text, "detail": text}
        for changed in each["changes"].values():
            changed["names"] = [text]
    report["accuracy"] |= {"output": text, "right": {text: 1}}
    report["verification"]["layers"] |= {"sentence": text}
    for each in report["verification"]["layers"]["layers"]:
        each |= {"reference": text, "node": text, "problem": each["problem"] and text}
    report["environment"]["processor"] = text
    report["options"]["inputs"] = text
    return report
