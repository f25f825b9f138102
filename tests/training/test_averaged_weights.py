import torch

from training.averaged_weights import AveragedWeights


def one_weight(value):
    module = torch.nn.Linear(1, 1, bias=False)
    torch.nn.init.constant_(module.weight, value)
    return module


def means_after(decay, values):
    module = one_weight(100.0)
    averaged = AveragedWeights(module, decay)
    for value in values:
        torch.nn.init.constant_(module.weight, value)
        averaged.update()
    return module, averaged


def test_the_first_steps_count_alike_and_then_the_mean_fades_by_hand():
    # Shares of a step: 1, 1/2, 1/3, and from then on at least 1 - decay = 0.4.
    _, averaged = means_after(0.6, [1.0, 2.0, 4.0])
    mean = 0.6 * (0.5 * 1 + 0.5 * 2) + 0.4 * 4
    assert torch.allclose(averaged.means[0], torch.tensor(mean))
    _, plain = means_after(0.99, [1.0, 2.0, 4.0, 9.0])
    assert torch.allclose(plain.means[0], torch.tensor(4.0))


def test_without_decay_the_mean_is_the_weights():
    module, averaged = means_after(0.0, [3.0, 7.0])
    assert torch.equal(averaged.means[0], module.weight)


def test_the_mean_stands_in_only_for_a_while():
    module, averaged = means_after(0.99, [1.0, 3.0])
    with averaged.in_place():
        assert module.weight.item() == 2
    assert module.weight.item() == 3
    assert averaged.means[0].item() == 2


def test_it_goes_on_from_its_state_and_leaves_frozen_weights_out():
    module, averaged = means_after(0.9, [1.0, 5.0])
    again = AveragedWeights(module, 0.9)
    again.load({name: value.clone() for name, value in averaged.state().items()})
    for one in (averaged, again):
        one.update()
    assert torch.equal(averaged.means[0], again.means[0])
    module.requires_grad_(False)
    two = torch.nn.Sequential(module, one_weight(1.0))
    assert AveragedWeights(two, 0.9).names == ["1.weight"]
