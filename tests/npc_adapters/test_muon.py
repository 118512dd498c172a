import torch

from npc_adapters.muon import Muon, orthogonalised


def test_the_update_is_nearly_orthogonal() -> None:
    matrix = torch.randn(24, 64, generator=torch.Generator().manual_seed(1))
    for shape in (matrix, matrix.T):
        values = torch.linalg.svdvals(orthogonalised(shape, torch.float32))
        assert 0.6 < values.min() < values.max() < 1.3


def test_steps_equal_those_of_torchs_own() -> None:
    """torch orthogonalises in bf16, hence the tolerance."""
    start = torch.randn(32, 48, generator=torch.Generator().manual_seed(2))
    ours, theirs = (torch.nn.Parameter(start.clone()) for _ in range(2))
    mine = Muon([ours], lr=0.02, weight_decay=0.1)
    other = torch.optim.Muon([theirs], lr=0.02, weight_decay=0.1, adjust_lr_fn="match_rms_adamw")
    generator = torch.Generator().manual_seed(3)
    for _ in range(4):
        ours.grad = torch.randn(32, 48, generator=generator)
        theirs.grad = ours.grad.clone()
        mine.step()
        other.step()  # type: ignore[no-untyped-call]  # torch declares no types for it
    moved = (theirs - start).norm()
    assert (ours - theirs).norm() < 0.02 * moved
