"""Errors in the user's input: one line that says what is wrong, why, and what to do."""

import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from difflib import SequenceMatcher

MOST_LISTED = 12  # more choices than this do not fit one line
MOST_SUGGESTED = 3
SIMILAR = 0.6  # difflib's default cutoff
MOST_SHOWN = 80  # characters of the user's own word
LISTED = ("method", "sequence", "backbone")  # what `cpbench list` lists
# Words of other programs and papers for names of cpbench, in lower case without signs; "*_weight": every name with that ending.
SYNONYMS = {
    "learning_rate": "lr eta stepsize",
    "token_learning_rate": "tokenlr textlr embeddinglr",
    "steps": "epochs epoch iterations iters maxsteps maxtrainsteps numsteps numtrainsteps trainsteps trainingsteps nsteps",
    "*_weight": "lambda lam lmbda beta gamma penalty strength regularization regularisation reg ewclambda lambdaewc",
    "batch_size": "bs batch trainbatchsize",
    "rank": "r lorarank lorar loradim networkdim dim",
    "guidance_scale": "cfg cfgscale guidance",
    "num_inference_steps": "inferencesteps samplingsteps samplersteps ddimsteps",
    "pictures_per_prompt": "images numimages imagesperprompt numimagesperprompt nsamples samplesperprompt",
    "prior_pictures": "numclassimages classimages priorimages",
    "method": "algorithm baseline approach strategy",
    "sequence": "dataset benchmark tasks datasets",
    "backbone": "model basemodel checkpoint pretrained pretrainedmodel pretrainedmodelnameorpath pipeline",
    "output": "out outdir outputdir resultsdir savedir",
    "device": "gpu cuda",
    "dtype": "precision mixedprecision torchdtype fp16 bf16",
    "resolution": "imagesize size picturesize",
    "data": "datadir dataroot images",
}


class UserError(Exception):
    """Bad input: the message says what is wrong, why, and what to do. The command line exits with code 2.

    The message is always one line: line breaks in it, such as those of a quoted name, become spaces.
    """

    def __init__(self, message: str) -> None:
        super().__init__(" ".join(line.strip() for line in message.splitlines()))


def quoted(value: object) -> str:
    """The value as the user wrote it, quoted, with control characters escaped, cut to 80 characters."""
    text = repr(value)
    return text if len(text) <= MOST_SHOWN else text[: MOST_SHOWN - 3] + "..."


def did_you_mean(name: object, choices: Iterable[str], noun: str, hint: str = "", most: int = MOST_LISTED) -> UserError:
    """The error for an unknown name, to be raised by the caller.

    name: what the user wrote; choices: the valid names; noun: what a name stands for, in the singular, such as "method".
    A name of the same meaning is suggested (`SYNONYMS`); otherwise similar names, ignoring case, and names that contain the
    user's, and the other way round. If nothing is similar, up to `most` choices are listed; if there are more, the
    command of `cpbench list` that lists them says where to find them if there is one, else `hint` (a sentence); else the first of
    them are listed. A given hint also follows all of these.
    """
    choices = list(dict.fromkeys(choices))
    close = _close(str(name), choices)
    head = f"unknown {noun} {quoted(name)}"
    if close:
        sentences = [f"{head}: did you mean {_either(close)}?", hint]
    elif not choices:
        sentences = [f"{head}: there is no {noun} here.", hint]
    elif len(choices) <= most:
        sentences = [f"{head}: the {noun}s are {', '.join(choices)}.", hint]
    elif noun in LISTED:
        sentences = [f"{head}:", f"`cpbench list {noun}s` shows all {len(choices)}.", hint]
    elif hint:
        sentences = [f"{head}:", hint]
    else:
        sentences = [f"{head}: there are {len(choices)} {noun}s: {', '.join(choices[:MOST_LISTED])}, ..."]
    return UserError(" ".join(filter(None, sentences)))


def _close(name: str, choices: list[str]) -> list[str]:
    """Up to three choices: those of the same meaning; otherwise the most similar first, and last those that contain the name
    or are contained in it."""
    if same := synonyms(name, choices):
        return same
    lowered = name.lower()
    # Choices that differ in case only must all survive, so the map goes to lists.
    by_lower: dict[str, list[str]] = {}
    for choice in choices:
        by_lower.setdefault(choice.lower(), []).append(choice)
    # Not get_close_matches: it turns the order of equally good choices round.
    ratio = {c: SequenceMatcher(None, c, lowered).ratio() for c in by_lower}
    similar = sorted((c for c in ratio if ratio[c] >= SIMILAR), key=lambda c: -ratio[c])[:MOST_SUGGESTED]
    # One or two letters occur in nearly everything: no sign of what was meant.
    holds = [c for c in by_lower if (len(lowered) > 2 and lowered in c) or (len(c) > 2 and c in lowered)]
    return [c for lower in dict.fromkeys(similar + holds) for c in by_lower[lower]][:MOST_SUGGESTED]


def synonyms(name: str, choices: Iterable[str]) -> list[str]:
    """The choices, at most three, that mean what other programs call `name`; of a method's weights its own come first."""
    plain = re.sub("[^a-z0-9]", "", name.lower())
    own_names = [own_name for own_name, foreign in SYNONYMS.items() if plain in foreign.split()]
    endings = tuple(own_name[1:] for own_name in own_names if own_name.startswith("*"))
    choices = list(choices)
    exact = [c for c in choices if c in own_names]
    return (exact or [c for c in reversed(choices) if endings and c.endswith(endings)])[:MOST_SUGGESTED]


def _either(names: list[str]) -> str:
    """'a', 'b' or 'c'."""
    names = [quoted(n) for n in names]
    return " or ".join(filter(None, [", ".join(names[:-1]), names[-1]]))


class DamagedState(UserError):
    """A damaged state file."""

    def __init__(self, path: object, reason: str) -> None:
        super().__init__(f"{path}: is damaged: {reason}")
        self.path, self.reason = path, reason

    def __reduce__(self) -> tuple:  # so that it can be pickled from another process
        return DamagedState, (self.path, self.reason)


class RulesError(RuntimeError):
    """A method broke the rules of the benchmark."""


class ReplayError(RulesError):
    """A method that must not see earlier data accessed it, or has it in its state."""


# Messages for those who call cpbench from Python

VALUES = "cpu hub miniature gelu float32 off"  # values that a message names after a flag
FLAG = re.compile(
    r"--set '?(?P<key>[\w.]+)=(?P<setting>\[[^\]]*\]|[\w.]+)'?"
    r"|--(?P<name>[a-z]+(?:-[a-z]+)*)(?: (?P<placeholder>[A-Z]{3,})\b| (?P<value>" + VALUES.replace(" ", "|") + r")\b)?"
)
SWITCHES = (  # flags without a value
    "allow_pickle",
    "trust_remote_code",
    "deterministic",
    "gradient_checkpointing",
    "attention_slicing",
    "offload",
)
OTHER_ARGUMENTS = {"judge": "judges", "set": "options"}  # arguments that are not called like their flag


def as_arguments(message: str) -> str:
    """A message of the command line with each flag as the argument of `cpbench.run`: --fit is fit, --offload offload=True."""

    def argument(flag: re.Match[str]) -> str:
        if key := flag["key"]:
            part, _, inner = key.rpartition(".")
            return f'{part or "options"}={{"{inner}": {_literal(flag["setting"])}}}'
        name = flag["name"].replace("-", "_")
        if name.startswith("no_"):
            return f"{name[3:]}=False"
        if name in SWITCHES:
            return f"{name}=True"
        name = OTHER_ARGUMENTS.get(name, name)
        if flag["placeholder"]:
            return f"{name}={flag['placeholder']}"
        return f'{name}="{flag["value"]}"' if flag["value"] else name

    return FLAG.sub(argument, message)


def _literal(setting: str) -> str:
    """A value of --set as Python writes it: lora is "lora", [a, b] is ["a", "b"], 50 is 50."""
    if setting.startswith("["):
        return f"[{', '.join(_literal(entry.strip()) for entry in setting[1:-1].split(',') if entry.strip())}]"
    if setting in ("true", "false"):
        return setting.title()
    return setting if re.fullmatch(r"[-+]?\d+(\.\d*)?", setting) else f'"{setting}"'


@contextmanager
def speaking_of_arguments() -> Iterator[None]:
    """Within this context, the message of a UserError names arguments of `cpbench.run`, not flags of the command line."""
    try:
        yield
    except UserError as error:
        error.args = (as_arguments(str(error)), *error.args[1:])
        raise
