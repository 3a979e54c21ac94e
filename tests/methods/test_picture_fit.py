from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest
import torch
from torch import Tensor

from recon_engine.methods._fields import FieldResult
from recon_engine.methods._picture_fit import PictureFit
from recon_engine.methods._views import CameraSettings
from recon_engine.methods.shapes import building

SETTINGS = CameraSettings(views=7, held_out=2, image_size=8, views_per_iteration=4, iterations=12)


class Grey(PictureFit[CameraSettings, FieldResult]):
    """One grey, shown everywhere: the simplest model there is."""

    method, label = "grey", "fitting"

    def __init__(self, subject, settings=None, **options):
        settings = self.default_settings() if settings is None else settings
        self.model = torch.nn.Linear(1, 1, bias=False)
        self.seen: list[list[int]] = []
        self.rates: list[list[float]] = []
        self.optimizers = [
            torch.optim.Adam(self.model.parameters(), lr=0.1),
            torch.optim.SGD(self.model.parameters(), lr=0.0, momentum=0.5),
        ]
        super().__init__(subject, settings, self.model, self.optimizers, {"a": 1.0, "b": 0.0}, **options)

    @staticmethod
    def default_settings() -> CameraSettings:
        return SETTINGS

    def losses(self, generator: torch.Generator) -> Sequence[Callable[[], Tensor]]:
        picked = self.pick(generator)
        self.seen.append(picked.tolist())
        self.rates.append([optimizer.param_groups[0]["lr"] for optimizer in self.optimizers])
        expected = self.subject.views.rgba[picked].mean()
        return (lambda: (self.model.weight - expected).square().mean(), lambda: self.model.weight.sum())

    def result(self) -> FieldResult:
        grey = self.model.weight.detach().clamp(0, 1)
        size = self.settings.image_size
        return FieldResult(**self._reached(lambda cameras: grey.expand(len(cameras), size, size, 4)))


@pytest.fixture(scope="module")
def house():
    return building(colors=True)


def test_views_of_a_step_are_drawn_without_repetition(house):
    fit = Grey.to_mesh(house)
    assert list(fit) == list(range(12))
    assert all(len(set(views)) == 4 for views in fit.seen)
    assert {view for views in fit.seen for view in views} == set(range(7))
    every = Grey.to_mesh(house, CameraSettings(**{**vars(SETTINGS), "views_per_iteration": 20}))
    every.run()
    assert all(sorted(views) == list(range(7)) for views in every.seen)


def test_the_rate_of_adam_falls_at_three_quarters(house):
    fit = Grey.to_mesh(house)
    fit.run()
    assert fit.rates == [[0.1, 0.0]] * 9 + [[pytest.approx(0.01), 0.0]] * 3


def test_what_was_reached(house):
    result = Grey.to_mesh(house).run()
    assert not result.interrupted
    assert result.seconds > 0
    assert list(result.history.table()) == ["total", "a", "b"]
    assert result.history.table()["total"] == result.history.table()["a"]
    assert (len(result.views), len(result.held_out), result.is_unseen) == (7, 2, True)
    torch.testing.assert_close(result.frame.undo(torch.zeros(1, 3))[0], result.center)
    assert result.rendered.shape == (2, 8, 8, 4)


def test_sharing_needs_other_processes(house):
    with pytest.raises(ValueError, match=r"distributed needs torch.distributed.init_process_group first"):
        Grey.to_mesh(house, distributed=True)
