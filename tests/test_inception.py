"""Inception's features where its weights are at hand: the published architecture, with weights made here."""

from pathlib import Path

import numpy as np
import pytest
import torch

from cpbench.errors import UserError
from cpbench.judges import inception

fidelity = pytest.importorskip("torch_fidelity.feature_extractor_inceptionv3")


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """torch's hub folder, without weights."""
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    (tmp_path / "checkpoints").mkdir()
    return tmp_path / "checkpoints" / fidelity.URL_INCEPTION_V3.rsplit("/", 1)[1]


@pytest.fixture
def weights(hub: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    network = fidelity.FeatureExtractorInceptionV3
    with monkeypatch.context() as patched:  # it has no other way to be made without downloading
        patched.setattr(network, "load_state_dict", lambda self, state: None)
        patched.setattr(fidelity, "load_state_dict_from_url", lambda *given, **named: {})
        torch.manual_seed(0)
        made = network("inception", ["2048"])
    torch.save(made.state_dict(), hub)
    return hub


def test_without_weights_there_is_none(hub: Path) -> None:
    assert inception.weights() is None


def test_features_are_torch_fidelitys(weights: Path) -> None:
    assert inception.weights() == weights
    pictures = np.random.default_rng(0).integers(0, 256, (3, 64, 64, 3), dtype=np.uint8)
    judge = inception.Inception(weights)
    found = judge.images(pictures)
    reference = fidelity.FeatureExtractorInceptionV3("inception", ["2048"], str(weights))
    (expected,) = reference(torch.from_numpy(pictures).permute(0, 3, 1, 2))
    assert found.shape == (3, 2048) and len(np.unique(found)) > 2000
    np.testing.assert_allclose(found, expected.numpy(), rtol=1e-5)
    assert len(judge.identity["weights_sha256"]) == 64


def test_a_file_that_is_something_else_is_refused_in_a_line(hub: Path) -> None:
    hub.write_bytes(b"<html>not found</html>")
    with pytest.raises(UserError, match=r"not Inception's weights \(.*\); remove it, and KID is computed with DINO"):
        inception.Inception(inception.weights())
    torch.save({"x": torch.zeros(1)}, hub)
    with pytest.raises(UserError, match="not Inception's weights"):
        inception.Inception(hub)
