"""Every task's loss has a gradient at every parameter it trains, and it is the right one."""

import pytest
import torch
from comfyui_trellis2.trellis2.checkpoint.config import Normalization
from comfyui_trellis2.trellis2.checkpoint.layouts import IMAGE_ENCODER
from comfyui_trellis2.trellis2.checkpoint.weights import randomize
from comfyui_trellis2.trellis2.projection.blocks import block_channels
from comfyui_trellis2.trellis2.projection.framing import CROP, support
from comfyui_trellis2.trellis2.training.data.latents import LatentSample
from comfyui_trellis2.trellis2.training.loop.compilation import compile_parts
from comfyui_trellis2.trellis2.training.runs.networks import make_trainable, new_network
from comfyui_trellis2.trellis2.training.tasks import TASKS
from comfyui_trellis2.trellis2.training.tasks.flows import FlowSettings
from comfyui_trellis2.trellis2.training.tasks.task import Task

CHANNELS = 4
STATISTICS = {name: Normalization(mean=(0.5,) * CHANNELS, std=(2.0,) * CHANNELS) for name in ("shape", "texture")}
LIKENESS = 0.02  # of a difference quotient in fp32 to the gradient


def latent_object(tokens: int) -> LatentSample:
    draw = torch.Generator().manual_seed(tokens)
    coords = torch.cartesian_prod(*[torch.arange(3, dtype=torch.int32)] * 3)[:tokens]
    shape, texture = (torch.randn(tokens, CHANNELS, generator=draw) for _ in range(2))
    image = torch.randint(0, 256, (1, 256, 256, 3), generator=draw, dtype=torch.uint8)
    structure = torch.randn(CHANNELS, 8, 8, 8, generator=draw)
    points = support(torch.rand(50, 3, generator=draw) - 0.5)
    latents = {"coords": coords, "shape": shape, "texture": texture, "structure": structure, "support": points}
    return LatentSample(latents, image, torch.tensor([[0.0, 20.0, 30.0]]))


def build(name: str, recipe) -> Task:
    kind, stage = TASKS[name], recipe.stages[name]
    networks = {}
    for seed, role in enumerate(kind.roles(stage)):
        networks[role] = make_trainable(new_network(role, recipe.networks[role], "cpu"))
        randomize(networks[role], torch.Generator().manual_seed(seed))
    if kind.inputs == "voxels":
        trained = {role: networks.pop(role) for role in kind.trained(stage)}
        return kind(trained, networks, stage)
    if IMAGE_ENCODER in kind.trained(stage):
        task = kind(networks, {}, FlowSettings(stage, STATISTICS, 1e-5))
        randomize(task.patch_head, torch.Generator().manual_seed(99))
        return task
    frozen = {IMAGE_ENCODER: networks.pop(IMAGE_ENCODER)}
    return kind(networks, frozen, FlowSettings(stage, STATISTICS, 1e-5))


def batch_of(name: str, recipe, source) -> dict:
    kind, stage = TASKS[name], recipe.stages[name]
    if kind.inputs == "latents":
        items = [latent_object(20), latent_object(7)]
    else:
        items = [source(k, resolution=stage.resolution, image_size=16, views=0) for k in range(2)]
    return kind.collate([(item, 10 + k) for k, item in enumerate(items)], recipe.data, stage)


def loss_of(task: Task, batch: dict) -> torch.Tensor:
    return sum(weight * term for weight, term in zip((1, 0.3, 0.1, 0.05, 0.01), task(batch).values(), strict=False))


@pytest.mark.slow
@pytest.mark.parametrize("name", TASKS)
def test_gradients(toy, source, name):
    recipe = toy(1, data={"structure": 16}, drop_condition=0.0)
    task, batch = build(name, recipe), batch_of(name, recipe, source)
    parameters = {key: value for key, value in task.named_parameters() if value.requires_grad}
    loss_of(task, batch).backward()
    wrong = [k for k, p in parameters.items() if p.grad is None or not p.grad.isfinite().all() or not p.grad.any()]
    assert wrong == []
    # Downhill, a small step changes the loss by its length times the gradient's norm.
    norm = torch.sqrt(sum(p.grad.double().square().sum() for p in parameters.values()))
    losses = []
    with torch.no_grad():
        step = float(0.001 * loss_of(task, batch) / norm**2)
        for sign in (1, -2):
            for parameter in parameters.values():
                parameter += sign * step * parameter.grad
            losses.append(loss_of(task, batch).double())
    assert float((losses[0] - losses[1]) / (2 * step)) == pytest.approx(float(norm**2), rel=LIKENESS)


@pytest.mark.slow
@pytest.mark.parametrize("name", TASKS)
def test_half_precision_changes_little(toy, source, name):
    recipe = toy(1, data={"structure": 16}, drop_condition=0.0)
    task, batch = build(name, recipe), batch_of(name, recipe, source)
    whole = {key: float(term.detach()) for key, term in task(batch).items()}
    with torch.autocast("cpu", torch.bfloat16):
        half = task(batch)
    assert all(term.dtype == torch.float32 for term in half.values())
    assert {key: float(term.detach()) for key, term in half.items()} == pytest.approx(whole, rel=0.05, abs=1e-3)
    sum(half.values()).backward()
    trained = [p for p in task.parameters() if p.requires_grad]
    assert all(p.grad.dtype == torch.float32 and p.grad.isfinite().all() for p in trained)


@pytest.mark.parametrize("name", ["structure_vae", "shape_vae", "texture_vae"])
def test_a_forgiving_decoder_learns_alone(toy, source, name):
    recipe = toy(1, [name], data={"structure": 16}, latent_noise=0.5, crop=16)
    task, batch = build(name, recipe), batch_of(name, recipe, source)
    terms = task(batch)
    assert list(task.networks) == [task.decoder_role] and "kl" not in terms
    sum(terms.values()).backward()
    assert all(p.grad is not None for p in task.decoder.parameters())
    assert all(p.grad is None for p in task._frozen[task.encoder_role].parameters())
    again, other = task(batch), task({**batch, "seeds": (1, 2)})
    first = next(iter(terms))
    assert torch.equal(terms[first], again[first]) and not torch.equal(terms[first], other[first])
    quiet = build(name, toy(1, [name], data={"structure": 16}, latent_noise=1e-6, crop=16))
    torch.testing.assert_close(quiet(batch)[first], quiet({**batch, "seeds": (1, 2)})[first])


def test_a_dropped_image_leaves_no_trace(toy, source):
    recipe = toy(1, ["shape_flow"], drop_condition=1.0)
    task, batch = build("shape_flow", recipe), batch_of("shape_flow", recipe, source)
    blank = {**batch, "images": torch.zeros_like(batch["images"])}
    assert torch.equal(task(batch)["velocity"], task(blank)["velocity"])


def projecting(recipe, name: str):
    """The recipe with a flow that also reads the picture where its tokens are."""
    role = TASKS[name].roles(recipe.stages[name])[1]
    channels = block_channels(32) if name == "structure_flow" else 32 + 3 * CROP.side**2
    recipe.networks[role]["args"] |= {"image_attn_mode": "proj", "proj_in_channels": channels}
    return recipe


@pytest.mark.parametrize("name", ["structure_flow", "shape_flow", "texture_flow"])
def test_a_flow_reads_the_picture_where_its_tokens_are(toy, source, name):
    recipe = projecting(toy(1, [name], drop_condition=0.0, guess_camera=0.0), name)
    task, batch = build(name, recipe), batch_of(name, recipe, source)
    terms = task(batch)
    terms["velocity"].backward()
    blocks = task.flow.blocks
    assert all(block.cross_attn.proj_linear.weight.grad.any() for block in blocks)
    moved = task({**batch, "cameras": batch["cameras"] + torch.tensor([90.0, 0.0, 0.0])})["velocity"]
    assert not torch.equal(moved, terms["velocity"])
    hidden = projecting(toy(1, [name], drop_condition=1.0), name)
    task = build(name, hidden)
    blank = {**batch, "images": torch.zeros_like(batch["images"])}
    assert torch.equal(task(batch)["velocity"], task(blank)["velocity"])


def test_a_batch_of_flows_is_its_objects(toy):
    recipe = projecting(toy(1, ["texture_flow"], drop_condition=0.5), "texture_flow")
    kind, stage = TASKS["texture_flow"], recipe.stages["texture_flow"]
    task, items = build("texture_flow", recipe), [(latent_object(n), n) for n in (20, 7, 13)]
    whole = task(kind.collate(items, recipe.data, stage))["velocity"]
    parts = [task(kind.collate([item], recipe.data, stage))["velocity"] for item in items]
    torch.testing.assert_close(whole, torch.stack(parts).mean(), rtol=1e-4, atol=0)


def test_recomputed_blocks_give_the_same_gradients(toy, source):
    found = []
    for recompute in (False, True):
        recipe = toy(1, ["structure_flow"])
        recipe.networks["sparse_structure_flow_model"]["args"]["use_checkpoint"] = recompute
        task = build("structure_flow", recipe)
        loss_of(task, batch_of("structure_flow", recipe, source)).backward()
        found.append([p.grad for p in task.parameters() if p.grad is not None])
    for a, b in zip(*found, strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # the compiler's own
# The blocks of texture_flow are those of shape_flow, the networks of texture_vae those of shape_vae.
@pytest.mark.parametrize("name", ["structure_vae", "shape_vae", "structure_flow", "shape_flow"])
def test_compiled_parts_learn_the_same(toy, source, name, monkeypatch):
    """Traced as for a GPU, but computed by torch's own operations: same loss, same gradients, and batches of other
    lengths compile nothing anew."""
    recipe = toy(1, data={"structure": 16}, drop_condition=0.0)
    task, batch = build(name, recipe), batch_of(name, recipe, source)
    parameters = [p for p in task.parameters() if p.requires_grad]
    plain = loss_of(task, batch)
    expected = torch.autograd.grad(plain, parameters)
    compile_ = torch.compile
    monkeypatch.setattr(torch, "compile", lambda part, **options: compile_(part, backend="aot_eager", **options))
    monkeypatch.setattr("comfyui_trellis2.trellis2.training.loop.compilation.triton_probe", lambda device, dtype: None)
    torch._dynamo.reset()
    compile_parts(task, torch.device("cpu"))
    loss = loss_of(task, batch)
    torch.testing.assert_close(loss, plain)
    torch.testing.assert_close(torch.autograd.grad(loss, parameters), expected)
    counted = torch._dynamo.utils.counters["stats"]
    graphs = counted["unique_graphs"]
    assert graphs > 0
    if "lengths" in batch and TASKS[name].inputs == "latents":
        kind, stage = TASKS[name], recipe.stages[name]
        other = kind.collate([(latent_object(n), n) for n in (11, 17)], recipe.data, stage)
        loss_of(task, other).backward()
        assert counted["unique_graphs"] == graphs
    torch._dynamo.reset()
