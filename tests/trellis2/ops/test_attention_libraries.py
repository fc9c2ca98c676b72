"""Attention by libraries: through fakes with their signatures, which compute by hand, and through what ends a process.

No build of these is on a machine without a GPU. tests/bench/bench_attention.py measures those that are there.
"""

import sys
from pathlib import Path

import pytest
import torch
from comfyui_trellis2.o_voxel.core import foreign
from comfyui_trellis2.o_voxel.core.backend import Backend, explain, resolve_backend
from comfyui_trellis2.trellis2.ops import attention as op
from comfyui_trellis2.trellis2.ops.attention import BACKENDS, NAMES, Rank, attention, libraries, problem
from comfyui_trellis2.trellis2.ops.attention.libraries import LIBRARIES, check

FAKES = Path(__file__).parent / "fakes"
OURS = {"flash_attn", "flash_attn_interface", "xformers", "sageattention", "softmax_written_out"}
CPU = torch.device("cpu")
LENGTHS = [((5,), (9,)), ((6, 6), (9, 9)), ((1, 63, 8), (4, 3, 90)), ((7, 2), (1, 1)), ((5, 0, 3), (4, 2, 6))]
each = pytest.mark.parametrize("name", LIBRARIES)


def forget_modules():
    for name in [name for name in sys.modules if name.partition(".")[0] in OURS]:
        del sys.modules[name]


@pytest.fixture(autouse=True)
def answers(tmp_path, monkeypatch):
    """A file of answers of the test's own, and no library left in the process."""
    monkeypatch.setattr(foreign, "answers_file", lambda: tmp_path / "answers" / "libraries.json")
    foreign.why_not.cache_clear()
    libraries._block_diagonal.cache_clear()
    yield
    foreign.why_not.cache_clear()
    forget_modules()


@pytest.fixture
def fakes(monkeypatch):
    monkeypatch.syspath_prepend(str(FAKES))


@pytest.fixture
def here(fakes, monkeypatch):
    """The fakes pass for libraries that work on this device."""
    monkeypatch.setattr(libraries, "unfit", lambda device, dtype: None)
    monkeypatch.setattr(libraries, "_tried", lambda device, dtype, name: None)


def library_of(tmp_path, monkeypatch, files):
    """Puts a library of these files, {path: text}, on the search path."""
    for path, text in files.items():
        file = tmp_path / "site" / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    monkeypatch.syspath_prepend(str(tmp_path / "site"))


def tokens(queries, keys, width=64, dtype=torch.bfloat16):
    """Views of one projection, as a network makes them."""
    generator = torch.Generator().manual_seed(0)
    query = torch.randn(sum(queries), 3, width, generator=generator).to(dtype)
    key, value = torch.randn(sum(keys), 2, 3, width, generator=generator).to(dtype).unbind(1)
    return query, key, value


@each
@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_a_library_that_works_passes_the_check(fakes, name, dtype):
    assert check(name, "cpu", dtype) == (None, True)


@each
@pytest.mark.parametrize(("queries", "keys"), LENGTHS, ids=str)
def test_arguments_layouts_and_lengths(here, name, queries, keys):
    given = tokens(queries, keys)
    before = [x.clone() for x in given]
    found = attention(*given, queries, keys, backend=name)
    exact = attention(*(x.float() for x in given), queries, keys, backend="reference")
    assert found.dtype == torch.bfloat16 and found.shape == given[0].shape
    torch.testing.assert_close(found.float(), exact, atol=0.02 if LIBRARIES[name].exact else 0.1, rtol=0)
    assert all(torch.equal(a, b) for a, b in zip(given, before, strict=True))


@pytest.mark.parametrize("name", [name for name, library in LIBRARIES.items() if library.packed])
def test_different_lengths_are_one_launch_of_the_tokens_there_are(here, name, monkeypatch):
    import softmax_written_out

    seen = []
    for module in LIBRARIES[name].modules:
        loaded = __import__(module, fromlist=["x"])
        monkeypatch.setattr(loaded, "attend_packed", lambda *x: seen.append(x) or softmax_written_out.attend_packed(*x))
    attention(*tokens((1, 63, 8), (4, 3, 90)), (1, 63, 8), (4, 3, 90), backend=name)
    ((query, key, value, query_ends, key_ends),) = seen
    assert (len(query), len(key), len(value)) == (72, 97, 97)
    assert (query_ends.tolist(), key_ends.tolist()) == ([0, 1, 64, 72], [0, 4, 7, 97])


def test_ends_are_made_once_so_that_a_recorded_graph_keeps_their_addresses(here):
    for name in ("flash-attn-2", "xformers"):
        attention(*tokens((2, 5), (3, 4)), (2, 5), (3, 4), backend=name)
    ends = op.sdpa.item_ends((2, 5), CPU)
    mask = libraries._block_diagonal((2, 5), (3, 4), CPU)
    assert op.sdpa.item_ends((2, 5), CPU) is ends
    assert libraries._block_diagonal((2, 5), (3, 4), CPU) is mask


def test_a_pair_is_taken_apart(here, monkeypatch):
    import flash_attn_interface

    single = flash_attn_interface.flash_attn_func
    monkeypatch.setattr(flash_attn_interface, "flash_attn_func", lambda *x: (single(*x), torch.zeros(1)))
    assert check("flash-attn-3", "cpu", "bfloat16") == (None, True)


def test_gradients_of_an_exact_library_and_none_of_one_that_quantises(here):
    given = [x.requires_grad_() for x in tokens((4, 5), (6, 7))]
    out = attention(*given, (4, 5), (6, 7), backend="flash-attn-2")
    assert all(grad.abs().max() > 0 for grad in torch.autograd.grad(out.float().square().sum(), given))
    with pytest.raises(ValueError, match="'sage': has no gradients"):
        attention(*given, (4, 5), (6, 7), backend="sage")


def test_other_heads_are_refused_by_name_and_passed_by_auto(here, monkeypatch):
    order = (Rank("flash-attn-2"), Rank("sdpa"))
    monkeypatch.setattr(op, "AUTO", order)
    monkeypatch.setattr(op, "BACKENDS", op._backends(order))
    given = tokens((4,), (6,), width=40)
    with pytest.raises(ValueError, match=r"'flash-attn-2': expected heads of \(128, 64\) channels, got 40"):
        attention(*given, (4,), (6,), backend="flash-attn-2")
    assert attention(*given, (4,), (6,)).shape == (4, 3, 40)


# The order of "auto"


def test_auto_takes_a_library_where_it_was_measured_to_be_the_fastest(monkeypatch):
    order = (Rank("flash-attn-4", tokens=8, capability=9), Rank("sdpa"))
    monkeypatch.setattr(op, "AUTO", order)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0) if device.index == 0 else (12, 0))
    ranked, sdpa, *rest = op._backends(order)
    assert (ranked.name, ranked.automatic, ranked.when) == (
        "flash-attn-4",
        True,
        "from 8 tokens on compute capability 9",
    )
    assert [choice.name for choice in rest if choice.automatic] == ["reference"]
    hopper, newer = torch.device("cuda", 0), torch.device("cuda", 1)
    assert op._fits(ranked, hopper, 128, 8)
    for changed in ((newer, 128, 8), (CPU, 128, 8), (hopper, 80, 8), (hopper, 128, 7)):
        assert not op._fits(ranked, *changed)
        assert op._fits(sdpa, *changed)


@pytest.mark.parametrize(("tokens_given", "learning", "taken"), [(8, False, True), (7, False, False), (8, True, False)])
def test_auto_takes_it_in_a_call(here, monkeypatch, tokens_given, learning, taken):
    order = (Rank("flash-attn-4", tokens=8), Rank("sdpa"))
    seen = []
    monkeypatch.setattr(op, "BACKENDS", op._backends(order))
    monkeypatch.setattr(op, "_fits", lambda choice, device, width, count: choice.name == "sdpa" or count >= 8)
    monkeypatch.setattr(libraries, "attend", lambda *given, library: seen.append(library.name) or given[0])
    given = [x.requires_grad_(learning) for x in tokens((tokens_given,), (3,))]
    assert attention(*given, (tokens_given,), (3,)).shape == given[0].shape
    assert seen == ["flash-attn-4"] * taken


def test_states_tell_what_auto_takes():
    def fine(device, dtype):
        return None

    choices = (Backend("a", fine, when="from 8 tokens"), Backend("b", fine), Backend("c", fine))
    assert explain((*choices, Backend("d", fine, automatic=False)), CPU) == {
        "a": "chosen from 8 tokens", "b": "chosen", "c": "works", "d": "works, taken by name only",
    }  # fmt: skip
    assert resolve_backend("d", (*choices, Backend("d", fine, automatic=False)), CPU) == "d"
    with pytest.raises(ValueError, match="does not work"):
        resolve_backend("auto", (Backend("d", fine, automatic=False),), CPU)


def test_auto_never_takes_what_quantises_and_names_are_kept():
    ranked = [choice.name for choice in BACKENDS if choice.automatic]
    assert "sage" not in ranked and ranked[-1] == "reference"
    assert sorted(choice.name for choice in BACKENDS) == sorted(NAMES)
    assert NAMES[:3] == ("cudnn", "sdpa", "reference")
    assert {choice.name: choice.licence for choice in BACKENDS if choice.licence} == {
        "flash-attn-4": "BSD-3-Clause",
        "flash-attn-3": "BSD-3-Clause",
        "flash-attn-2": "BSD-3-Clause",
        "xformers": "BSD-3-Clause",
        "sage": "Apache-2.0",
    }


def test_a_library_that_is_not_ranked_is_not_even_looked_for(monkeypatch):
    monkeypatch.setattr(libraries, "is_installed", lambda module: pytest.fail(f"looked for {module}"))
    assert attention(*tokens((4,), (6,)), (4,), (6,)).shape == (4, 3, 64)


# Refusals


@each
def test_what_is_absent_or_cannot_run_says_so_without_a_process(fakes, name, monkeypatch):
    monkeypatch.setattr(libraries, "why_not", lambda *_: pytest.fail("no process is needed to say this"))
    library = LIBRARIES[name]
    assert libraries.probe(library, CPU, torch.bfloat16) == "runs on a GPU, not on cpu"
    assert libraries.probe(library, torch.device("cuda"), torch.float32) == "takes 16-bit numbers, not torch.float32"
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if entry != str(FAKES)])
    assert libraries.probe(library, CPU, torch.bfloat16) == f"not installed (no module {library.modules[0]})"
    asked = problem(name, torch.device("cuda"), torch.bfloat16, launch=False)
    assert asked == f"attention {name!r}: not installed (no module {library.modules[0]}); choose 'auto', or another"


def test_problem_names_what_is_unknown_and_passes_what_works():
    assert problem("auto", CPU, torch.float32) is None
    assert problem("sdpa", CPU, torch.float32) is None
    assert "expected 'auto' or one of" in problem("flash", CPU, torch.float32)
    for launch in (True, False):
        assert problem("cudnn", CPU, torch.float32, launch=launch).startswith("attention 'cudnn': runs on a GPU")


def test_flash_attn_4_alone_is_not_flash_attn_2(tmp_path, monkeypatch):
    library_of(tmp_path, monkeypatch, {"flash_attn/cute/__init__.py": ""})
    assert libraries.absent(LIBRARIES["flash-attn-4"], CPU, torch.bfloat16) == "runs on a GPU, not on cpu"
    assert "no module flash_attn.flash_attn_interface" in libraries.absent(
        LIBRARIES["flash-attn-2"], CPU, torch.bfloat16
    )


def test_a_wrong_result_and_an_import_that_fails_are_told(here, tmp_path, monkeypatch):
    import sageattention

    monkeypatch.setattr(sageattention, "sageattn", lambda q, k, v, **_: torch.zeros_like(q))
    reason, lasting = check("sage", "cpu", "bfloat16")
    assert reason == "its result for heads of 128 is wrong, by 1 of its size" and lasting
    monkeypatch.setattr(sageattention, "sageattn", lambda q, k, v, **_: q[0, 0, 0, 0].new_full(q.shape, torch.nan))
    assert check("sage", "cpu", "bfloat16")[0].endswith("by nan of its size")
    monkeypatch.setattr(sageattention, "sageattn", None)
    assert check("sage", "cpu", "bfloat16")[0].startswith("a test launch failed: TypeError: ")
    forget_modules()
    library_of(tmp_path, monkeypatch, {"xformers/__init__.py": "", "xformers/ops.py": "import flash_attn.nothing"})
    assert check("xformers", "cpu", "bfloat16") == (
        "it does not load: ModuleNotFoundError: No module named 'flash_attn.nothing'",
        True,
    )


@pytest.mark.slow
def test_a_build_that_ends_its_process_is_refused_and_this_process_lives_on(fakes, tmp_path, monkeypatch):
    """One ends it while it is imported, one at its call, with its last words on standard error; one works."""
    dies = "import os, sys\nprint('CUDA error: no kernel image', file=sys.stderr, flush=True)\nos.abort()\n"
    call = f"def sageattn(*a, **b):\n    {dies.strip().replace(chr(10), chr(10) + '    ')}\n"
    library_of(tmp_path, monkeypatch, {"flash_attn_interface.py": dies, "sageattention.py": call})
    monkeypatch.setattr(libraries, "unfit", lambda device, dtype: None)
    for name in ("flash-attn-3", "sage", "flash-attn-2"):
        reason = libraries._tried(CPU, torch.bfloat16, name)
        said = "it ended a test process by SIGABRT: CUDA error: no kernel image"
        assert reason == (None if name == "flash-attn-2" else said), name
    assert "flash_attn_interface" not in sys.modules
    # A later process reads the answers, and asks nobody, as long as the versions and the card are the same.
    foreign.why_not.cache_clear()
    monkeypatch.setattr(foreign, "_ask", lambda *_: ("asked again", False))
    question = ("trellis2.ops.attention.libraries:check", ("sage", "cpu", "bfloat16"))
    about = (LIBRARIES["sage"].distribution, foreign.version(LIBRARIES["sage"].distribution), *foreign.machine(CPU))
    assert foreign.why_not(*question, about) == said
    assert foreign.why_not(*question, (*about, "another card")) == "asked again"
    foreign.forget()
    assert foreign.why_not(*question, about) == "asked again"


# On a GPU, those that are there


def needs(name):
    reason = problem(name, torch.device("cuda"), torch.bfloat16)
    if reason is not None:
        pytest.skip(reason)


@pytest.mark.gpu
@each
@pytest.mark.parametrize("width", libraries.WIDTHS)
@pytest.mark.parametrize(
    ("queries", "keys"),
    [((2380,), (2380,)), ((1000, 1000), (1029, 1029)), ((777, 1, 1602), (1029, 1029, 5))],
    ids=["one", "equal", "different"],
)
def test_a_library_on_the_gpu_is_as_good_as_plain_torch_and_repeats(name, width, queries, keys):
    needs(name)
    given = [x.cuda() for x in tokens(queries, keys, width)]
    exact = attention(*(x.float() for x in given), queries, keys, backend="reference")
    plain, ours, again = (attention(*given, queries, keys, backend=b).float() for b in ("sdpa", name, name))
    factor = 2 if LIBRARIES[name].exact else 40
    assert (ours - exact).abs().max() <= factor * (plain - exact).abs().max() + 1e-6
    assert torch.equal(ours, again)


@pytest.mark.gpu
@each
@pytest.mark.parametrize(("queries", "keys"), [((1200,), (700,)), ((700, 1, 499), (300, 299, 101))], ids=str)
def test_a_recorded_graph_of_a_library_gives_the_same_bytes(name, queries, keys):
    """Also after other lengths came, while the recording's own stay where they are, and with other numbers put in."""
    needs(name)
    given = [x.cuda() for x in tokens(queries, keys, 128)]

    with torch.inference_mode():
        attention(*given, queries, keys, backend=name)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            out = attention(*given, queries, keys, backend=name)
        for count in range(2, 30):
            attention(*(x[:count] for x in given), (1, count - 1), (count - 1, 1), backend=name)
        for x in given:
            x.mul_(-0.5)
        graph.replay()
        torch.cuda.synchronize()
        assert torch.equal(out, attention(*given, queries, keys, backend=name))


@pytest.mark.gpu
@each
def test_a_network_attends_by_a_library_launched_and_recorded(name):
    """Two objects of different sizes, in the network's own step: eager, then recorded, then replayed."""
    from comfyui_trellis2.trellis2.models import Backends, build_model
    from comfyui_trellis2.trellis2.models.transformer import PreparedCondition
    from comfyui_trellis2.trellis2.sparse import CoordSet, PackedSequences, SparseTensor

    needs(name)
    args = {
        "resolution": 32, "in_channels": 8, "out_channels": 8, "model_channels": 256, "cond_channels": 64,
        "num_blocks": 2, "num_heads": 2, "mlp_ratio": 4, "pe_mode": "rope", "share_mod": True,
        "initialization": "scaled", "qk_rms_norm": True, "qk_rms_norm_cross": True,
    }  # fmt: skip
    found = {}
    for backend in ("sdpa", name):
        torch.cuda.empty_cache()
        description = {"name": "SLatFlowModel", "args": args}
        flow = build_model(description, "flow", dtype="bfloat16", backends=Backends(attention=backend), device="cuda")
        generator = torch.Generator("cuda").manual_seed(0)
        for parameter in flow.parameters():
            parameter.normal_(0, 0.05, generator=generator)
        axis = torch.arange(32, device="cuda")
        voxels = torch.cartesian_prod(axis, axis, axis).int()
        coords = CoordSet.from_items([voxels[:900], voxels[:333]])
        x = torch.randn(1233, 8, device="cuda", generator=generator)
        image = PackedSequences(torch.randn(150, 64, device="cuda", generator=generator), (100, 50))
        with torch.inference_mode():
            prepared = flow.prepare(image)

            def forward(x, t, *image, flow=flow, coords=coords, lengths=prepared.lengths):
                return flow(SparseTensor(x, coords), t, PreparedCondition.of(image, lengths)).feats

            flow.graphs.begin(flow, x.device, launch="graph", tokens=1233, coords=coords)
            step = flow.graphs.step("positive", forward, x, prepared.tensors())
            t = torch.full((2,), 500.0, device="cuda")
            found[backend] = [step(x, t) for _ in range(3)]
    eager, recorded, replayed = found[name]
    assert torch.equal(eager, recorded) and torch.equal(recorded, replayed)
    size = found["sdpa"][0].norm()
    assert (eager - found["sdpa"][0]).norm() < (0.02 if LIBRARIES[name].exact else 0.2) * size
