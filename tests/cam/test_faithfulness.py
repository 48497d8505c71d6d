"""Deletion, insertion and sanity checks on networks with known behaviour."""

import numpy as np
import pytest
import torch
from networks import GRIDS, NAMES, images, network
from scipy.stats import pearsonr, spearmanr
from sklearn.metrics import auc
from torch import Tensor, nn

from cxr import cam
from cxr.cam import faithfulness, sanity
from cxr.models import Network

GRID = (4, 4)


class QuarterSum(Network):
    """Its only logit is the sum of a quarter of the image."""

    def __init__(self) -> None:
        super().__init__()
        self.classifier = nn.Linear(1, 1)

    def forward(self, x: Tensor) -> Tensor:
        return x[:, 0, :4, :4].sum(dim=(1, 2))[:, None] - 8


class Brightness(Network):
    """Its only logit is the sum of the image minus a quarter of its n cells."""

    def __init__(self, n: int) -> None:
        super().__init__()
        self.n = n

    def forward(self, x: Tensor) -> Tensor:
        return x.double().sum(dim=(1, 2, 3))[:, None] - self.n / 4


def area_by_hand(share: np.ndarray, n_seen: list[int]) -> float:
    """Area under sigmoid(visible pixels - 8) over the share of cells, by the trapezoidal rule."""
    return float(auc(share, 1 / (1 + np.exp(8 - np.array(n_seen, float)))))


def test_curves_of_a_known_network_by_hand() -> None:
    """8 x 8 pixels, 16 cells of 4 pixels; only the first four cells matter."""
    inputs = torch.ones(1, 1, 8, 8)
    cells = np.arange(16).reshape(4, 4)
    first = [*cells[:2, :2].ravel()]
    order = np.array([[*first, *(c for c in range(16) if c not in first)]])
    areas = faithfulness.curves(QuarterSum(), inputs, np.array([0]), order, GRID)
    taken = np.linspace(0, 16, 11).round()
    deleted = [int(16 - 4 * min(n, 4)) for n in taken]
    inserted = [int(4 * min(n, 4)) for n in taken]
    assert areas.deletion[0] == pytest.approx(area_by_hand(taken / 16, deleted))
    assert areas.insertion[0] == pytest.approx(area_by_hand(taken / 16, inserted))
    worst = faithfulness.curves(QuarterSum(), inputs, np.array([0]), order[:, ::-1].copy(), GRID)
    assert worst.deletion[0] > 0.6 > 0.3 > areas.deletion[0]
    assert worst.insertion[0] < 0.4 < 0.7 < areas.insertion[0]


@pytest.mark.parametrize("n_side", [1, 2, 3])
def test_uneven_steps_of_a_small_grid_are_weighted_by_their_size(n_side: int) -> None:
    """With fewer cells than steps every cell is a step, so the area is exact."""
    n = n_side**2
    net = Brightness(n)
    order = np.arange(n)[None]
    areas = faithfulness.curves(
        net, torch.ones(1, 1, n_side, n_side), np.array([0]), order, (n_side, n_side)
    )
    probs = 1 / (1 + np.exp(-(np.arange(n + 1) - n / 4)))  # by number of visible cells
    exact = float(((probs[1:] + probs[:-1]) / 2).mean())
    assert areas.insertion[0] == pytest.approx(exact, abs=1e-9)
    assert areas.deletion[0] == pytest.approx(exact, abs=1e-9)


def test_each_image_uses_its_own_label_and_order() -> None:
    net, x = network("cnn"), images("cnn")
    labels, orders = np.array([0, 3, 7, 13]), faithfulness.random_order(4, GRIDS["cnn"], seed=0)
    together = faithfulness.curves(net, x, labels, orders, GRIDS["cnn"])
    for i in range(4):
        one = slice(i, i + 1)
        alone = faithfulness.curves(net, x[one], labels[one], orders[one], GRIDS["cnn"])
        assert alone.deletion[0] == pytest.approx(together.deletion[i], abs=1e-6)
        assert alone.insertion[0] == pytest.approx(together.insertion[i], abs=1e-6)


def test_both_curves_run_between_the_image_and_a_blank_image() -> None:
    """A blank image is the mean image; with STEPS = 1 the area is the mean of both ends."""
    net, x = network("cnn").eval(), images("cnn", 2)
    with torch.no_grad():
        whole, blank = (net(image).sigmoid()[:, 5].numpy() for image in (x, torch.zeros_like(x)))
    order = faithfulness.random_order(2, GRIDS["cnn"], seed=0)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(faithfulness, "STEPS", 1)
        areas = faithfulness.curves(net, x, np.array([5, 5]), order, GRIDS["cnn"])
    np.testing.assert_allclose(areas.deletion, (whole + blank) / 2, rtol=1e-5)
    np.testing.assert_allclose(areas.insertion, (whole + blank) / 2, rtol=1e-5)


def test_orders() -> None:
    attribution = np.array([[[1, 3], [3, -1]]], np.float32)
    assert faithfulness.attribution_order(attribution).tolist() == [[1, 2, 0, 3]]
    centre = faithfulness.centre_order(2, (3, 3))
    assert centre[0, 0] == 4 and set(centre[0, 5:]) == {0, 2, 6, 8}
    random = faithfulness.random_order(50, (3, 3), seed=0)
    assert (np.sort(random, axis=1) == np.arange(9)).all()
    assert len(np.unique(random, axis=0)) > 40


@pytest.mark.parametrize("name", NAMES)
def test_randomising_layers_changes_the_map_but_not_the_network(name: str) -> None:
    net, x = network(name), images(name, 2)
    before = cam.explain(net, x).attribution
    state = {key: value.clone() for key, value in net.state_dict().items()}
    steps = list(sanity.randomised(net, x, "gradcam", seed=0))
    assert steps[0].layer == "classifier"
    with_weights = [
        n or type(m).__name__ for n, m in net.named_modules() if hasattr(m, "reset_parameters")
    ]
    untrained = dict(sanity.untrained(net, seed=7).named_parameters())
    unchanged = {n for n, p in net.named_parameters() if torch.equal(p, untrained[n])}
    assert unchanged == set()
    assert [step.layer for step in steps] == with_weights[::-1]
    assert all(torch.equal(value, state[key]) for key, value in net.state_dict().items())
    assert np.array_equal(cam.explain(net, x).attribution, before)
    assert np.abs(sanity.similarity(before, steps[0].attribution)).mean() < 0.9
    again = list(sanity.randomised(net, x, "gradcam", seed=0))
    assert np.array_equal(steps[-1].attribution, again[-1].attribution)
    other = list(sanity.randomised(net, x, "gradcam", seed=1))
    assert not np.array_equal(steps[-1].attribution, other[-1].attribution)


def test_similarity_equals_scipys_spearman_correlation() -> None:
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(2, 3, 7, 7)), rng.normal(size=(2, 3, 7, 7)).round(1)
    similarity = sanity.similarity(a, b)
    assert similarity.shape == (2, 3)
    for i in np.ndindex(2, 3):
        assert similarity[i] == pytest.approx(spearmanr(a[i].ravel(), b[i].ravel()).statistic)
    assert np.isnan(sanity.similarity(a, np.ones_like(a))).all()


class Edges(Network):
    """Its map has one cell per pixel and moves with the image, as it should."""

    def __init__(self) -> None:
        super().__init__()
        self.classifier = nn.Linear(1, 1)
        nn.init.ones_(self.classifier.weight)

    def feature_map(self, x: Tensor) -> Tensor:
        return x

    def classify(self, feature_map: Tensor) -> Tensor:
        logits: Tensor = self.classifier(feature_map.mean(dim=(2, 3)))
        return logits


class Fixed(Edges):
    """Its map does not move with the image."""

    def feature_map(self, x: Tensor) -> Tensor:
        fixed = torch.rand(1, 1, *x.shape[2:], generator=torch.Generator().manual_seed(0))
        return fixed.expand(len(x), -1, -1, -1) + 0 * x


def noise() -> Tensor:
    return torch.randint(0, 256, (3, 12, 12), generator=torch.Generator().manual_seed(0)).byte()


def prepare(images: Tensor) -> Tensor:
    return images[:, None].float() / 255


def stability(network: Network) -> np.ndarray:
    before = cam.explain(network, prepare(noise())).attribution
    return sanity.stability(network, noise(), before, prepare, "gradcam")


def test_a_map_that_moves_with_the_image_is_stable() -> None:
    np.testing.assert_allclose(stability(Edges()), 1, atol=1e-5)


def test_a_map_that_does_not_move_with_the_image_is_not_stable() -> None:
    """White noise is uncorrelated with itself shifted by a pixel."""
    correlations = stability(Fixed())
    assert np.abs(correlations).max() < 0.3
    before = Fixed().feature_map(prepare(noise()))[0, 0].numpy()
    inner, moved = before[1:-1, 1:-1], {}
    for down, right in sanity.SHIFTS:
        moved[down, right] = np.roll(before, (-down, -right), axis=(0, 1))[1:-1, 1:-1]
    expected = np.mean([pearsonr(inner.ravel(), m.ravel()).statistic for m in moved.values()])
    assert correlations[0, 0] == pytest.approx(expected, abs=1e-6)
