"""Records of earlier versions, in today's schema: an older one is brought up to date on reading, never rewritten.

Schema 1, of cpbench 0.1, had a SHA-256 over the bytes of 24 files of cpbench and of the method's (`code`) where schema 2 has
versions; judges by their weights alone; and one device for all tasks. Schema 2 had other names for some parts, see `PARTS`
and `COSTS`, and for some options, see `option_names`. Schema 3, too, had the status "interrupted" for what is "stopped" today.
"""

from __future__ import annotations

from typing import Any

from cpbench.files import short_hash
from cpbench.judges import identity
from cpbench.records import option_names

CODE = ("scores", "versions", "source")  # of the facts, those about code
OLD_EVALUATION_NAMES = {"upper_triangle": "forward_transfer_cells"}  # in a record's config; its facts keep their keys

# Schema 1: what `code` was of every method at the last commit of cpbench 0.1.
BYTES = {
    "base": "9b184b51b0ea8e0c02967a5cbace20caf235a978ac11d1ea37700100d10d2a4a",
    "cidm": "953f5ba67c33e88c089dc4d493e9e24c1da6cdcb96dc1679d338addb7b5704a6",
    "classdiffusion": "4b80626d0a5676a6a897fa83c48cb370c2502e67d7d3b65fede3ef4e1354a301",
    "clora": "ce34340c92fb1494137950e87d8a3e9a781dd0e0ac7fbad47ab0be3b62c6b2f2",
    "customdiffusion": "fe5ae7a3a2f539527dbbc9f3ea4094b998b28fe9d772d3ba2e9de78d6f6d3093",
    "dataperspective": "92aa2afe86fa973b14a20a302f5497713458aa823c094e2e6947a187b4114c17",
    "dcscore": "a1ca19f74e1ce9f023a091605ad0a5102a756788fa8fcccfb0c94113373bb5f8",
    "dreambooth": "4af1563940074a32cf9410b0eaa7e130f324f9b7459478061524f356f07f94be",
    "ewc": "a30f6310a616217e20c35725f8b600c94c5cfb20955ad8874d62c74854e7ce38",
    "genreplay": "b53f032a0e18c2e2e55c23e04e74a7d663c584b6a2e7473c1204a1cd95f15282",
    "isolated": "4969a93b77714438084bb1c18f38a83e97a587154aab48c224e8cce3ae25c965",
    "joint": "bb5ba81727f994fc9b76518304fe0b88a943fee0dd8d463c483cce04c7f7d577",
    "l2": "442d76eb1d8ad1aa2b15873b5f8b9692b7fd509ad61466f4d693e26bd993fffa",
    "magmax": "7b48e8478ae792478e9f8e78dfb289df57371158628cdc72590f0523658e9950",
    "mergeinit": "7f59b8c8e43a32348dabd05d94b9ab15fa32ad6bf399f1b9304fe2f34bc60334",
    "olora": "2c16d2d32916eab007b0fcfe3116c04f89c97aaff385992ccc3889a8cd0b6101",
    "orthoinit": "803adb88f0f0d10d0539a845c29a3cd9dccb91a13d05fd6cafe4a9878d4e7677",
    "raretoken": "163025085b57c29416b59acc7653389f458962ffffc605c85998c4912f0c31e6",
    "seqlora": "6edf5b394d0d597935d7ea72ab14d1b1dbf2c3310cd7046a90f71e1bddf41431",
    "stamina": "f863bb143aa0061ab999fd0c02b50ce32d75ed13f4db7cba1e83be5b2fdd9558",
    "textualinversion": "7c234f14418fc33cabcb680cd2573222fa2cfb9337ba4d7386a5e9940f4a8a3a",
}
EXTENDED = {  # the built-in methods that one extends
    "classdiffusion": ("customdiffusion",),
    "dataperspective": ("dreambooth",),
    "ewc": ("seqlora",),
    "genreplay": ("seqlora",),
    "joint": ("seqlora",),
    "l2": ("seqlora",),
    "magmax": ("mergeinit", "seqlora"),
    "mergeinit": ("seqlora",),
    "olora": ("clora",),
    "orthoinit": ("seqlora",),
}
# Their weights went to the optimiser in the order of a file's tensors, which was another one at every reading, and the last
# bits of a clipped norm with it: no code gives those numbers again.
UNREPEATABLE = ("dataperspective", "dreambooth", "raretoken")

# Schema 1: the names of layers that defaults and presets had, and the roles that they are said by today.
ROLES = {
    ("to_q", "to_k", "to_v", "to_out.0"): ["attention"],
    ("to_q", "to_k", "to_v", "to_out.0", "ff.net.0.proj", "ff.net.2", "conv1", "conv2"): [
        "attention",
        "feed_forward",
        "conv1",
        "conv2",
    ],
    ("attn2.to_q", "attn2.to_k", "attn2.to_v", "attn2.to_out.0"): ["text_attention"],
    ("attn2.to_k", "attn2.to_v"): ["text_keys_values"],
}


# Schema 2: what parts of a record, and of a task's cost, were called.
PARTS = {"summary": "figures", "composition": "multi_concept"}
COSTS = {
    "drawing_seconds": "generation_seconds",
    "drawing_unet_evaluations": "generation_evaluations",
    "learning_unet_evaluations": "learning_evaluations",
    "pictures_drawn": "pictures_generated",
    "carried_bytes": "state_bytes",
    "carried_parameters": "state_parameters",
}


def today(content: Any) -> Any:
    """A record in today's schema; what is no record of a known schema is returned as it is.

    `is_sound`: whether its hash was that of its facts, as they were written.
    """
    if not isinstance(content, dict) or not isinstance(facts := content.get("facts"), dict):
        return content
    try:
        is_sound = short_hash(facts) == content.get("hash")
    except (TypeError, ValueError, RecursionError):
        is_sound = False
    upgraded = _from_1(content, facts) if content.get("schema") == 1 else content
    upgraded = _from_2(upgraded) if upgraded.get("schema") == 2 else upgraded
    upgraded = {**upgraded, "status": "stopped"} if upgraded.get("status") == "interrupted" else upgraded
    upgraded = _rows_in_evaluation(upgraded)
    return {**upgraded, "is_sound": is_sound}


def cost_today(cost: Any) -> Any:
    """A task's cost, of run.json or of the task's own files, by today's names."""
    return _renamed(cost, COSTS) if isinstance(cost, dict) else cost


def _renamed(part: dict[str, Any], names: dict[str, str]) -> dict[str, Any]:
    return {names.get(key, key): value for key, value in part.items()}


def _rows_in_evaluation(record: dict[str, Any]) -> dict[str, Any]:
    """The record with the rows that were asked for among the settings of the evaluation; they once stood beside it."""
    config = record.get("config")
    if not isinstance(config, dict) or "rows" not in config:
        return record
    evaluation = config.get("evaluation", {})
    without_rows = {k: v for k, v in config.items() if k != "rows"}
    if config["rows"] is None or not isinstance(evaluation, dict):
        return record | {"config": without_rows}
    return record | {"config": without_rows | {"evaluation": evaluation | {"rows": config["rows"]}}}


def _from_2(record: dict[str, Any]) -> dict[str, Any]:
    costs, config, facts = record.get("costs"), record.get("config"), record["facts"]
    upgraded = _renamed(record, PARTS) | {"schema": 3}
    if isinstance(costs, dict):
        upgraded["costs"] = {t: cost_today(cost) for t, cost in costs.items()}
    if isinstance(config, dict):
        evaluation = config.get("evaluation")
        renamed = _renamed(evaluation, OLD_EVALUATION_NAMES) if isinstance(evaluation, dict) else evaluation
        upgraded["config"] = config | ({"evaluation": renamed} if "evaluation" in config else {})
    method = facts.get("method")
    for holder, key in ((upgraded, "changed"), (upgraded.get("config"), "options")):
        if isinstance(holder, dict) and isinstance(options := holder.get(key), dict):
            holder[key] = option_names.recorded(method, options)
    options = facts.get("options")
    if isinstance(options, dict):
        upgraded["facts"] = facts | {"options": option_names.recorded(method, options)}
    return upgraded


def _from_1(record: dict[str, Any], facts: dict[str, Any]) -> dict[str, Any]:
    facts = {k: v for k, v in facts.items() if k not in CODE}
    code, method = facts.pop("code", None), facts.get("method")
    if isinstance(method, str) and code is not None and code == BYTES.get(method):
        names = (method, *EXTENDED.get(method, ()))
        facts |= {"scores": 0 if _is_unrepeatable(facts) else 1, "versions": {name: 1 for name in sorted(names)}}
    else:
        facts |= {"scores": 0, "versions": {}, "source": code}
    judges = record.get("judges")
    if isinstance(judges, dict):
        identities = {name: identity.completed(judge) for name, judge in judges.items()}
        facts["judges"] = {k: identity.counted(v) if isinstance(v, dict) else v for k, v in identities.items()}
    upgraded = {**_conditions(record), "schema": 2, "facts": _options_by_role(facts, "options")}
    if "config" in record:
        upgraded["config"] = _options_by_role(record["config"], "options")
    return _options_by_role(upgraded, "changed")


def _options_by_role(holder: Any, key: str) -> Any:
    """What holds options under this key, with the layers of `ROLES` named by role."""
    options = holder.get(key) if isinstance(holder, dict) else None
    return {**holder, key: _with_roles(options)} if isinstance(options, dict) else holder


def _with_roles(options: dict[str, Any]) -> dict[str, Any]:
    layers = options.get("target_modules")
    if not isinstance(layers, list) or not all(isinstance(name, str) for name in layers):
        return options
    return options | {"target_modules": ROLES.get(tuple(layers), layers)}


def _is_unrepeatable(facts: dict[str, Any]) -> bool:
    options = facts.get("options")
    return facts["method"] in UNREPEATABLE and isinstance(options, dict) and options.get("adapter") == "full"


def _conditions(record: dict[str, Any]) -> dict[str, Any]:
    """The record with `made_on`, which has the device of every task, in place of `device`."""
    device, tasks = record.get("device"), record.get("costs")
    without = {k: v for k, v in record.items() if k != "device"}
    if "made_on" in record or not isinstance(device, dict) or not isinstance(tasks, dict):
        return without
    numbers = sorted(int(t) for t in tasks if isinstance(t, str) and t.isdecimal())
    machine = {"device": device.get("kind"), "threads": device.get("threads"), "versions": record.get("versions")}
    return without | {"made_on": [{**machine, "learning": [t for t in numbers if t], "row": numbers}]}
