"""DC scores: each term of L_FIM and of DSC by loops, and what the five variants train, log, cost and carry."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import learners
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from learners import Learned, MakeTask

from cpbench.backbones.backbone import Backbone
from cpbench.baselines.dcscore import DCScore, DCScoreOptions, distillation, fisher_loss
from cpbench.learning import diffusion_classifier as dc
from cpbench.learning import training
from cpbench.method import State
from cpbench.registry import load_method

Tensors = dict[str, torch.Tensor]
CONCEPTS, NOUNS = ("dog", "vase", "dog2", "backpack"), ("dog", "vase", "dog", "backpack")
VARIANTS = ("ewc", "ewc-dc", "dsc", "dsc-ewc", "dsc-ewc-dc")
DSC_TERMS = {"noise_current", "noise_past", "scores_current", "scores_past"}
SMALL: dict[str, Any] = {"rank": 2, "steps": 2, "batch_size": 2, "learning_rate": 1e-2, "token_learning_rate": 1e-2}
SMALL |= {"dsc_steps": 2, "dsc_learning_rate": 1e-3, "fisher_samples": 2, "candidates": 3, "ewc_weight": 1e-2}
SMALL_TARGETS = ("to_q", "to_k", "to_v", "to_out.0")


@dataclass
class Call:
    """One call of the classifier: what it was given, and the noises it told."""

    batch: training.Batch
    phrases: list[str]
    factors: Tensors | None
    installed: Tensors
    noises: torch.Tensor
    has_gradient: bool


def learn(*given: Any, **options: Any) -> Learned:
    """`learners.learn` of this method with small options."""
    return learners.learn(DCScore, *given, **SMALL | options)


def sequence(backbone: Backbone, make_task: MakeTask, tasks: int = 3, **options: Any) -> list[Learned]:
    learned: list[Learned] = []
    for number in range(1, tasks + 1):
        learned.append(learn(backbone, make_task, number, learned[-1].state if learned else None, **options))
    return learned


@pytest.fixture(scope="module")
def three(three_tasks: Callable) -> Callable[[str], list[Learned]]:
    return lambda variant: three_tasks(DCScore, **SMALL | {"variant": variant, "dc_weight": 1.0})


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[Call]:
    """Every call of `predicted_noise` while something is learned."""
    noted: list[Call] = []
    genuine = dc.predicted_noise

    def note(
        backbone: Backbone,
        batch: training.Batch,
        phrases: Sequence[str],
        factors: Tensors | None = None,
        error: str = "epsilon",
    ) -> torch.Tensor:
        assert error == "epsilon"
        out = genuine(backbone, batch, phrases, factors)
        given = None if factors is None else {k: v.detach().clone() for k, v in factors.items()}
        installed = {k: v.detach().clone() for k, v in backbone.lora_parameters.items()}
        noted.append(Call(batch, list(phrases), given, installed, out.detach().double(), out.requires_grad))
        return out

    monkeypatch.setattr(dc, "predicted_noise", note)
    return noted


def same(a: Tensors, b: Tensors) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


def error_table(noises: torch.Tensor, noise: torch.Tensor, reduction: str = "mean") -> list[list[float]]:
    """e[picture][candidate]."""
    k, n = noises.shape[:2]
    d = [[((noises[i, j] - noise[j].double()) ** 2).flatten() for i in range(k)] for j in range(n)]
    return [[float(x.mean() if reduction == "mean" else x.sum()) for x in row] for row in d]


def log_softmax(e: list[float], tau: float) -> list[float]:
    least = min(e)
    log_z = math.log(sum(math.exp(-(x - least) / tau) for x in e))
    return [-(x - least) / tau - log_z for x in e]


# L_FIM

TABLES = st.integers(1, 4).flatmap(
    lambda k: st.lists(st.lists(st.floats(0, 2), min_size=k, max_size=k), min_size=1, max_size=3)
)


@given(TABLES, st.booleans(), st.sampled_from([0.0, 0.3, 1.0, 5.0]), st.sampled_from([0.05, 1.0]))
def test_the_fisher_loss_is_its_equation_by_loop(e: list[list[float]], c0: bool, w_dc: float, tau: float) -> None:
    """e_n + w_dc [ H(1_n, P) - sum or mean over N of H(1_i, P) ]; c^0, where there is one, is in P alone."""
    k = len(e[0])
    past = range(1 if c0 and k > 1 else 0, k - 1)
    total = {"summed": 0.0, "averaged": 0.0}
    for row in e:
        log_p = log_softmax(row, tau)
        others = sum(-log_p[i] for i in past)
        total["summed"] += row[-1] + w_dc * (-log_p[-1] - others)
        total["averaged"] += row[-1] + w_dc * (-log_p[-1] - (others / len(past) if past else 0))
    table = torch.tensor(e, dtype=torch.float64)
    for negatives, expected in total.items():
        got = fisher_loss(table, len(past), w_dc, tau, negatives)
        assert float(got) == pytest.approx(expected / len(e), abs=1e-9, rel=1e-9)


@given(st.lists(st.floats(0, 2), min_size=2, max_size=5), st.floats(0, 2), st.sampled_from([0.01, 0.5]))
def test_averaged_negatives_cancel_the_normaliser_and_c0(e: list[float], c0: float, tau: float) -> None:
    """L = e_n + w/tau (e_n - mean of the negatives' e): a contrast, in which c^0 has no part."""
    expected = e[-1] + 0.7 / tau * (e[-1] - sum(e[:-1]) / len(e[:-1]))
    for row in (e, [c0, *e]):
        got = fisher_loss(torch.tensor([row], dtype=torch.float64), len(e) - 1, 0.7, tau, "averaged")
        assert float(got) == pytest.approx(expected, abs=1e-6)


@given(st.lists(st.floats(0, 2), min_size=3, max_size=3))
def test_with_one_negative_both_readings_are_the_same(e: list[float]) -> None:
    table = torch.tensor([e], dtype=torch.float64)
    summed, averaged = (float(fisher_loss(table, 1, 1.0, 0.1, n)) for n in ("summed", "averaged"))
    assert summed == pytest.approx(averaged, abs=1e-9)


def test_with_two_negatives_the_readings_differ_by_the_normaliser() -> None:
    """With (1 - |N|) log Z left over, e = 0 for all of k candidates: H = log k for each."""
    table = torch.zeros(1, 4, dtype=torch.float64)
    assert float(fisher_loss(table, 2, 1.0, 0.1, "summed")) == pytest.approx(-math.log(4))
    assert float(fisher_loss(table, 2, 1.0, 0.1, "averaged")) == pytest.approx(0)


@pytest.mark.parametrize("negatives", ["summed", "averaged"])
def test_in_task_1_only_c0_competes(negatives: str) -> None:
    table = torch.tensor([[0.5, 0.5 + 0.1 * math.log(3)]], dtype=torch.float64)  # P = 3/4, 1/4
    loss = fisher_loss(table, 0, 2.0, 0.1, negatives)
    assert float(loss) == pytest.approx(0.5 + 0.1 * math.log(3) + 2 * math.log(4))
    assert float(fisher_loss(table[:, 1:], 0, 2.0, 0.1, negatives)) == pytest.approx(0.5 + 0.1 * math.log(3))


# DSC


@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize("own", [-1, -2])
def test_a_teachers_terms_are_their_equations_by_loop(own: int, reduction: str) -> None:
    g = torch.Generator().manual_seed(0)
    student, teacher = (torch.randn(3, 2, 2, 4, 4, generator=g) for _ in range(2))
    noise = torch.randn(2, 2, 4, 4, generator=g)
    near, scores = distillation(student, teacher, own, noise, 3.0, reduction)
    pairs = list(zip(student[own].flatten().tolist(), teacher[own].flatten().tolist(), strict=True))
    assert float(near) == pytest.approx(sum((s - t) ** 2 for s, t in pairs) / len(pairs), rel=1e-5)
    H = 0.0
    tables = (error_table(x.double(), noise, reduction) for x in (student, teacher))
    for e_S, e_T in zip(*tables, strict=True):
        H -= sum(math.exp(t) * s for s, t in zip(log_softmax(e_S, 3.0), log_softmax(e_T, 3.0), strict=True)) / 2
    assert float(scores) == pytest.approx(H, rel=1e-4)


def test_a_student_that_is_its_teacher_has_no_noise_term_and_the_entropy() -> None:
    g = torch.Generator().manual_seed(0)
    student, noise = torch.randn(3, 2, 2, 4, 4, generator=g), torch.randn(2, 2, 4, 4, generator=g)
    near, scores = distillation(student, student.clone(), -1, noise, 0.5, "mean")
    entropy = [-sum(math.exp(x) * x for x in log_softmax(e, 0.5)) for e in error_table(student.double(), noise)]
    assert float(near) == 0 and float(scores) == pytest.approx(sum(entropy) / 2, rel=1e-4)
    assert 0.1 < sum(entropy) / 2 < math.log(3)


@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_terms_of_consolidation_are_those_of_its_equation(
    tiny: Backbone,
    make_task: MakeTask,
    three: Callable[[str], list[Learned]],
    calls: list[Call],
    reduction: str,
) -> None:
    """Each of the four, from the noises that student and teachers told in each step."""
    before = three("dsc")[1].state
    calls.clear()
    weights = {"noise_weight": 3.0, "score_weight": 0.5, "temperature": 0.02 if reduction == "mean" else 2.0}
    learned = learn(tiny, make_task, 3, before, variant="dsc", dsc_steps=6, reduction=reduction, **weights)
    steps = learned.phase("dsc")
    assert len(calls) == 3 * len(steps) == 18
    just_trained, drawn = calls[0].installed, set()
    for i, figures in enumerate(steps):
        student, current, past = calls[3 * i : 3 * i + 3]
        assert student.has_gradient and not current.has_gradient and not past.has_gradient
        # one picture, noise and timestep, and one set of candidates, for all three
        assert student.batch is current.batch is past.batch
        assert student.phrases == current.phrases == past.phrases
        c0, m, n = student.phrases
        assert (c0, n) == ("dog", "<v3> dog")
        concept = {"<v1> dog": "dog", "<v2> vase": "vase"}[m]
        drawn.add(concept)
        assert student.factors is None
        assert same(current.factors, just_trained)  # teacher 1 stays where training ended
        assert same(past.factors, before.tensors_of(f"adapter/{concept}"))
        expected = {}
        for name, teacher, own in (("current", current, 2), ("past", past, 1)):
            expected[f"noise_{name}"] = 3.0 * float(((student.noises[own] - teacher.noises[own]) ** 2).mean())
            H = [
                -sum(
                    math.exp(t) * s
                    for s, t in zip(*(log_softmax(e, weights["temperature"]) for e in pair), strict=True)
                )
                for pair in zip(
                    *(error_table(x.noises, student.batch.noise, reduction) for x in (student, teacher)), strict=True
                )
            ]
            expected[f"scores_{name}"] = 0.5 * sum(H) / len(H)
        got = {k: v for k, v in figures.items() if k in DSC_TERMS}
        assert got == pytest.approx(expected, rel=1e-3, abs=1e-9)
        assert figures["loss"] == pytest.approx(sum(expected.values()), rel=1e-3)
        assert (figures["noise_current"] > 0) is (i > 0)  # the student starts as teacher 1
        assert figures["noise_past"] > 1e-4
    assert drawn == {"dog", "vase"}  # a past LoRA is drawn anew in every step
    assert not same(learned.state.tensors_of("adapter/dog2"), just_trained)


def test_with_all_learned_concepts_as_candidates(
    tiny: Backbone, make_task: MakeTask, three: Callable[[str], list[Learned]], calls: list[Call]
) -> None:
    """Task 4: the past teacher's term is at its own concept's place among all."""
    before, options = three("dsc")[2].state, {"noise_weight": 3.0, "score_weight": 0.5, "temperature": 0.02}
    calls.clear()
    learned = learn(tiny, make_task, 4, before, variant="dsc", dsc_steps=8, dsc_candidates="all", **options)
    drawn = set()
    for i, figures in enumerate(learned.phase("dsc")):
        student, current, past = calls[3 * i : 3 * i + 3]
        assert student.phrases == ["backpack", "<v1> dog", "<v2> vase", "<v3> dog", "<v4> backpack"]
        (own,) = [k for k, c in enumerate(CONCEPTS, 1) if same(past.factors, before.tensors_of(f"adapter/{c}"))]
        drawn.add(own)
        for name, teacher, place in (("current", current, 4), ("past", past, own)):
            expected = 3.0 * float(((student.noises[place] - teacher.noises[place]) ** 2).mean())
            assert figures[f"noise_{name}"] == pytest.approx(expected, rel=1e-3, abs=1e-9)
            P_S, P_T = (
                [log_softmax(e, 0.02) for e in error_table(x.noises, student.batch.noise, "mean")]
                for x in (student, teacher)
            )
            H = [-sum(math.exp(t) * s for s, t in zip(*pair, strict=True)) for pair in zip(P_S, P_T, strict=True)]
            assert figures[f"scores_{name}"] == pytest.approx(0.5 * sum(H) / len(H), rel=1e-3)
    assert len(drawn) > 1


# The Fisher of a task


@pytest.mark.parametrize("negatives", ["summed", "averaged"])
def test_the_carried_fisher_is_that_of_the_equation_draw_by_draw(
    tiny: Backbone, make_task: MakeTask, three: Callable[[str], list[Learned]], negatives: str
) -> None:
    """Task 3 with all candidates in S: F_bar_3 = decay F_bar_2 + F_3 / mean(F_3), from calls of the UNet of our own."""
    before, tau, w_dc, draws = three("ewc-dc")[1].state, 0.02, 0.4, 5
    options = {"variant": "ewc-dc", "fisher_samples": draws, "temperature": tau, "dc_weight": w_dc, "fisher_decay": 0.5}
    learned = learn(tiny, make_task, 3, before, candidates=5, negatives=negatives, **options)

    for n, concept in enumerate(CONCEPTS[:3], 1):
        tiny.add_token(f"<v{n}>", learned.state.tensors[f"token/{concept}"])
    phi = tiny.add_lora(2, SMALL_TARGETS, values=learned.state.tensors_of("adapter/dog2"))
    losses: list[tuple[float, float, float]] = []
    sums = [{k: torch.zeros_like(v, dtype=torch.float64) for k, v in phi.items()} for _ in range(2)]
    for batch in training.batches(tiny, make_task(tiny, "dog2", 3), draws, 1, "fisher"):
        e = []
        for phrase in ("dog", "<v1> dog", "<v2> vase", "<v3> dog"):
            words = tiny.encode_prompts([batch.template.replace("{}", phrase)])
            guess = tiny.denoiser(batch.noisy, batch.timesteps, words).sample
            e.append(((guess - batch.noise) ** 2).mean())
        log_z = torch.stack([(-x / tau).exp() for x in e]).sum().log()
        H = [x / tau + log_z for x in e]
        L_FIM = e[3] + w_dc * (H[3] - (H[1] + H[2]) / (1 if negatives == "summed" else 2))
        for total, loss in zip(sums, (L_FIM, e[3]), strict=True):
            slopes = torch.autograd.grad(loss, list(phi.values()), retain_graph=True)
            for k, slope in zip(phi, slopes, strict=True):
                total[k] += slope.double() ** 2 / draws
        P = [float((-h.detach()).exp()) for h in H]
        losses.append((float(L_FIM.detach()), -sum(p * math.log(p) for p in P), P[3]))

    figures = learned.phase("fisher")
    for name, column in zip(("loss", "entropy", "p_n"), zip(*losses, strict=True), strict=True):
        assert [f[name] for f in figures[:-1]] == pytest.approx(column, rel=1e-3), name
    flat = [torch.cat([total[k].flatten() for k in phi]) for total in sums]
    for k, old in before.tensors_of("fisher").items():
        expected = 0.5 * old.double() + sums[0][k] / flat[0].mean()
        torch.testing.assert_close(learned.state.tensors[f"fisher/{k}"].double(), expected, rtol=5e-3, atol=1e-4)
    cosine = float(flat[0] @ flat[1] / flat[0].norm() / flat[1].norm())
    assert figures[-1] == {"phase": "fisher", "step": draws, "cosine_to_plain": pytest.approx(cosine, abs=1e-3)}
    assert cosine < 0.99


@pytest.mark.parametrize("variant", ["ewc", "dsc-ewc"])
def test_plain_ewc_squares_the_denoising_error_alone(three: Callable[[str], list[Learned]], variant: str) -> None:
    for learned in three(variant):
        assert [set(f) for f in learned.phase("fisher")] == [{"phase", "step", "loss"}] * 2  # no candidates beside c^n


@pytest.mark.parametrize(
    ("c0", "first"), [("{noun}", ["vase"]), ("thing", ["thing"]), ("old {noun}", ["old vase"]), ("", [])]
)
def test_c0_is_what_the_option_says(
    tiny: Backbone,
    make_task: MakeTask,
    three: Callable[[str], list[Learned]],
    monkeypatch: pytest.MonkeyPatch,
    c0: str,
    first: list[str],
) -> None:
    """In the prompts of both phases, beside <v1> with its own noun."""
    before, prompts, encode = three("dsc-ewc-dc")[0].state, [], tiny.encode_prompts
    monkeypatch.setattr(tiny, "encode_prompts", lambda texts: prompts.append(list(texts)) or encode(texts))
    learn(tiny, make_task, 2, before, null_prompt=c0)
    several = [p for p in prompts if len(p) > 1]
    assert len(several) == 2 * 3 + 2  # student and teachers in two steps, two draws
    for said in several:
        template = said[-1].replace("<v2> vase", "{}")
        assert template in training.TEMPLATES
        assert said == [template.format(x) for x in (*first, "<v1> dog", "<v2> vase")]
    assert {p[0] for p in prompts if len(p) == 1} <= {t.format("<v2> vase") for t in training.TEMPLATES}


@pytest.mark.parametrize("c0", ["{noun}", ""])
@pytest.mark.parametrize(("candidates", "draws"), [(2, 12), (3, 12), (4, 6), (9, 2)])
def test_candidates_limit_how_many_choose(
    tiny: Backbone,
    make_task: MakeTask,
    three: Callable[[str], list[Learned]],
    calls: list[Call],
    candidates: int,
    draws: int,
    c0: str,
) -> None:
    """Task 4: c^0 and c^n are always there, random past ones fill the rest."""
    before = three("ewc-dc")[2].state
    calls.clear()
    options = {
        "variant": "ewc-dc",
        "steps": 1,
        "batch_size": 1,
        "fisher_samples": draws,
        "candidates": candidates,
        "null_prompt": c0,
    }
    learned = learn(tiny, make_task, 4, before, **options)
    always, all_past = int(bool(c0)) + 1, {"<v1> dog", "<v2> vase", "<v3> dog"}
    size = min(candidates, 3 + always)
    seen: set[str] = set()
    for call in calls:
        assert len(call.phrases) == size and call.phrases[-1] == "<v4> backpack"
        assert not c0 or call.phrases[0] == "backpack"
        past = call.phrases[bool(c0) : -1]
        assert len(set(past)) == len(past) == size - always and set(past) <= all_past
        seen |= set(past)
    assert len(calls) == draws and seen == (all_past if size > always else set())
    assert learned.evaluations == 1 + draws * size


# The EWC penalty while training


@pytest.mark.parametrize("variant", ["ewc", "dsc-ewc"])
def test_the_logged_penalty_is_the_closed_form_in_both_phases(
    tiny: Backbone, make_task: MakeTask, three: Callable[[str], list[Learned]], variant: str
) -> None:
    """lambda/2 sum_j F_j (phi_j - phi*_j)^2 from the carried Fisher and the last task's LoRA, before each step."""
    before, expected = three(variant)[1].state, [0.0]
    F, anchor = before.tensors_of("fisher"), before.tensors_of("adapter/vase")

    def look(phase: str, step: int) -> None:
        if phase != "fisher":
            total = sum(
                float((F[k].double() * (v.detach().double() - anchor[k]) ** 2).sum())
                for k, v in tiny.lora_parameters.items()
            )
            expected.append(0.05 / 2 * total)

    learned = learn(tiny, make_task, 3, before, look, variant=variant, ewc_weight=0.05, steps=3, dsc_steps=3)
    steps = learned.phase("train") + learned.phase("dsc")
    assert len(steps) == (6 if "dsc" in variant else 3)
    assert [f["ewc"] for f in steps] == pytest.approx(expected[: len(steps)], rel=1e-4)
    for f in learned.phase("train"):
        assert f["loss"] == pytest.approx(f["denoising"] + f["ewc"], rel=1e-5)
    for f in learned.phase("dsc"):
        assert f["loss"] == pytest.approx(f["ewc"] + sum(f[k] for k in DSC_TERMS), rel=1e-5)


def test_entries_with_a_large_fisher_move_less(
    tiny: Backbone, make_task: MakeTask, three: Callable[[str], list[Learned]]
) -> None:
    """A Fisher that weighs every other entry: with a large lambda those stay, with none they move as the others do."""
    given = three("ewc")[0].state
    weighed = {k: (torch.arange(v.numel()).view(v.shape) % 2).float() for k, v in given.tensors_of("fisher").items()}
    before = State(given.tensors | {f"fisher/{k}": v for k, v in weighed.items()}, given.facts)
    ratios = {}
    for weight in (0.0, 1e6):
        options = {"variant": "ewc", "ewc_weight": weight, "steps": 15, "learning_rate": 1e-3}
        after = learn(tiny, make_task, 2, before, fisher_samples=1, **options).state
        moved = {k: (v - given.tensors[f"adapter/dog/{k}"]).abs() for k, v in after.tensors_of("adapter/vase").items()}
        held = torch.cat([moved[k][weighed[k] == 1] for k in moved]).mean()
        free = torch.cat([moved[k][weighed[k] == 0] for k in moved]).mean()
        ratios[weight] = float(held / free)
    assert 0.8 < ratios[0.0] < 1.25
    assert ratios[1e6] < 0.5


# What the variants do


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_variant_has_exactly_its_terms(three: Callable[[str], list[Learned]], variant: str) -> None:
    for number, learned in enumerate(three(variant), 1):
        plain = {"phase", "step", "loss", "gradient_norm", "lora_norm"}
        ewc = {"ewc"} if "ewc" in variant and number > 1 else set()
        train, dsc, fisher = (learned.phase(name) for name in ("train", "dsc", "fisher"))
        assert train + dsc + fisher == learned.curve  # in this order
        assert [set(f) for f in train] == [plain | {"token_norm", "denoising"} | ewc] * 2
        assert [set(f) for f in dsc] == [plain | DSC_TERMS | ewc] * (2 if "dsc" in variant and number > 1 else 0)
        draws = [{"phase", "step", "loss", "entropy", "p_n"}] * 2 + [{"phase", "step", "cosine_to_plain"}]
        if not variant.endswith("dc"):
            draws = [{"phase", "step", "loss"}] * 2
        assert [set(f) for f in fisher] == (draws if "ewc" in variant else [])
        if ewc:
            assert train[0]["ewc"] == 0 and all(f["ewc"] > 0 for f in [*train[1:], *dsc])
        for i, f in enumerate(dsc):
            assert all(f[term] > 0 for term in DSC_TERMS if i or term != "noise_current")
        if variant.endswith("dc"):
            size = min(number + 1, 3)
            assert all(0 < f["entropy"] <= math.log(size) + 1e-6 and 0 < f["p_n"] < 1 for f in fisher[:-1])
            assert 0 < fisher[-1]["cosine_to_plain"] < 0.999


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_variant_carries_what_it_needs_and_no_more(three: Callable[[str], list[Learned]], variant: str) -> None:
    learned = [x.state for x in three(variant)]
    names = learned[0].tensors_of("adapter/dog").keys()
    for number, state in enumerate(learned, 1):
        seen = CONCEPTS[:number]
        pool = seen if "dsc" in variant else seen[-1:]
        expected = {f"adapter/{c}/{k}" for c in pool for k in names} | {f"token/{c}" for c in seen}
        expected |= {f"fisher/{k}" for k in names if "ewc" in variant}
        assert state.tensors.keys() == expected and len(names) > 16
        assert state.concepts == list(seen) and state.facts["nouns"] == dict(zip(seen, NOUNS, strict=False))
    for before, after in zip(learned, learned[1:], strict=False):
        for name, tensor in before.tensors.items():
            if name.startswith("token/") or ("dsc" in variant and name.startswith("adapter/")):
                assert torch.equal(after.tensors[name], tensor), name  # bit for bit
            elif name.startswith("fisher/"):
                assert float((after.tensors[name] - tensor).min()) >= 0  # decay 1: sums of squares
    if "ewc" in variant:
        for number, state in enumerate(learned, 1):
            F = torch.cat([v.flatten() for v in state.tensors_of("fisher").values()])
            assert float(F.mean()) == pytest.approx(number, rel=1e-4)  # each task brought mean 1


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_lora_starts_where_the_last_one_ended(
    tiny: Backbone, make_task: MakeTask, three: Callable[[str], list[Learned]], variant: str
) -> None:
    before = three(variant)[1].state
    still = {"learning_rate": 1e-9, "dsc_learning_rate": 1e-9, "token_learning_rate": 0, "steps": 1, "dsc_steps": 1}
    after = learn(tiny, make_task, 3, before, variant=variant, **still, fisher_samples=1).state
    for k, v in before.tensors_of("adapter/vase").items():
        torch.testing.assert_close(after.tensors[f"adapter/dog2/{k}"], v, atol=1e-7, rtol=0)
    assert torch.equal(after.tensors["token/dog2"], tiny.word_embedding("dog"))


@pytest.mark.parametrize("variant", VARIANTS)
def test_what_is_carried_is_what_training_ended_with(
    tiny: Backbone, make_task: MakeTask, three: Callable[[str], list[Learned]], variant: str
) -> None:
    """The Fisher's draws move nothing; DSC moves the LoRA and no word."""
    last: dict[str, tuple[Tensors, torch.Tensor]] = {}

    def look(phase: str, step: int) -> None:
        rows = tiny.token_embeddings["v2"].detach().clone()
        last[phase] = ({k: v.detach().clone() for k, v in tiny.lora_parameters.items()}, rows)

    before = three(variant)[0].state
    after = learn(tiny, make_task, 2, before, look, variant=variant).state
    factors, row = last["dsc" if "dsc" in variant else "train"]
    assert same(after.tensors_of("adapter/vase"), factors)
    if "dsc" in variant:  # two steps of Adam at the rate of DSC, a tenth of training's
        assert max(float((v - last["train"][0][k]).abs().max()) for k, v in factors.items()) < 2.1e-3
    assert torch.equal(after.tensors["token/vase"], row) and torch.equal(row, last["train"][1])
    assert not any(torch.equal(factors[k], v) for k, v in before.tensors_of("adapter/dog").items())
    assert not torch.equal(row, tiny.word_embedding("vase"))


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_last_lora_and_all_words_are_installed(
    tiny: Backbone, three: Callable[[str], list[Learned]], variant: str
) -> None:
    state, method = three(variant)[2].state, DCScore(DCScoreOptions(**SMALL | {"variant": variant}))
    for concepts in ((), ("dog",), ("vase", "dog2")):
        with tiny.installed(method, state, concepts):
            assert same({k: v.detach() for k, v in tiny.lora_parameters.items()}, state.tensors_of("adapter/dog2"))
            for n, concept in enumerate(CONCEPTS[:3], 1):
                assert torch.equal(tiny.token_embeddings[f"v{n}"], state.tensors[f"token/{concept}"])
    assert [method.phrase(c, "thing", state) for c in CONCEPTS[:3]] == ["<v1> thing", "<v2> thing", "<v3> thing"]


# Cost


@pytest.mark.parametrize("c0", ["{noun}", ""])
@pytest.mark.parametrize("variant", VARIANTS)
def test_evaluations_are_as_foretold(
    tiny: Backbone, make_task: MakeTask, three: Callable[[str], list[Learned]], variant: str, c0: str
) -> None:
    options = SMALL | {"variant": variant, "null_prompt": c0}
    tasks = three(variant) if c0 else sequence(tiny, make_task, **options)
    by_hand = 2 * 2 + (2 * 2 * 3 * (3 if c0 else 2) if "dsc" in variant else 0)
    by_hand += 2 * (3 if variant.endswith("dc") else 1) if "ewc" in variant else 0
    assert tasks[2].evaluations == by_hand


@pytest.mark.parametrize("name", ["base", "isolated", "seqlora"])
def test_evaluations_of_the_plain_methods_are_as_foretold(tiny: Backbone, make_task: MakeTask, name: str) -> None:
    kind = load_method(name)
    given = {"steps": 2, "batch_size": 3, "rank": 2}
    options = kind.Options(**{k: v for k, v in given.items() if k in kind.Options.model_fields})
    state = State()
    for number in (1, 2, 3):
        before = tiny.unet_evaluations
        state = kind(options).learn(tiny, make_task(tiny, CONCEPTS[number - 1], number), state)
        tiny.restore()
        expected = 0 if name == "base" else 6
        assert tiny.unet_evaluations - before == expected


def test_what_errors_are_of_counts_in_every_variant_and_a_temperature_is_measured_only_where_it_counts() -> None:
    """Plain EWC's Fisher is of the error too; it has no classifier."""
    options = load_method("dcscore").Options
    for variant in options.model_fields["variant"].annotation.__args__:
        assert "dc_error" not in options(variant=variant, dc_error="velocity").without_effect()
    plain = load_method("dcscore")(options(variant="ewc", temperature="auto"))
    assert plain.temperature(None, None, State()) == "auto"  # no backbone is asked
