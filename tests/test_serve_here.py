"""The small server: its tokens are those of the whole model, and its loop keeps the rules that are predicted."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from planner.serving import IterationShape
from simulator.serving.requests import Requests
from tests.cli import meshwise
from tests.features import LLAMA
from validate.launch import launch
from validate.serving.compare import Server, predicted
from validate.serving.loop import Asked, serve
from validate.serving.prices import MeasuredPrices, features, fitted

torch = pytest.importorskip("torch")

import torch.distributed as dist  # noqa: E402

from validate.serving.model import Piece, ServedModel  # noqa: E402
from validate.worker import join  # noqa: E402

ALONE = [[Piece(1, 0, 20, True)], [Piece(1, 20, 1, False)], [Piece(1, 21, 1, False)]]


def tokens(pieces_by_iteration: list[list[Piece]], slot: int) -> list[int]:
    model = ServedModel(LLAMA, num_slots=3, max_tokens=64)
    made = []
    for pieces in pieces_by_iteration:
        model.iterate(pieces)
        made.append(int(model.latest[slot]))
    return made


def test_chunks_and_company_change_no_token() -> None:
    """A prompt in two chunks beside another request makes the tokens of the same prompt alone and whole."""
    mixed = [
        [Piece(1, 0, 13, True), Piece(2, 0, 9, True)],
        [Piece(2, 9, 1, False), Piece(1, 13, 7, True)],
        [Piece(1, 20, 1, False), Piece(2, 10, 1, False)],
        [Piece(1, 21, 1, False)],
    ]
    assert tokens(ALONE, 1) == tokens(mixed, 1)[1:]


def test_loop_keeps_its_rules() -> None:
    """Budgets and slots are kept, running requests go first, and every request gets all of its tokens."""
    seen: list[list[Piece]] = []
    requests = [Asked(0.0, 50, 5), Asked(0.0, 10, 3), Asked(0.0, 8, 1), Asked(0.01, 30, 2)]
    answers = serve(requests, seen.append, num_slots=2, token_budget=16)
    assert all(sum(piece.new for piece in pieces) <= 16 and len(pieces) <= 2 for pieces in seen)
    assert [answer.made for answer in answers] == [5, 3, 1, 2]
    assert sum(piece.new for pieces in seen for piece in pieces if piece.is_prompt) == 98
    assert all(0.0 < answer.first_token_seconds <= answer.last_token_seconds for answer in answers)


def test_prices_are_found_again() -> None:
    """A fit to iterations of known prices gives them back."""
    true = MeasuredPrices(5e-3, 1e-4, 2e-4, 3e-6, 1e-7, 0.0)
    draw = np.random.default_rng(0)
    shapes = [
        IterationShape((int(new),) if new else (), (int(past),) if new else (), int(count), float(count * context))
        for new, past, count, context in draw.integers(0, 200, (60, 4))
    ]
    seconds = np.array([true.iteration_seconds(shape) for shape in shapes])
    found = fitted(shapes, seconds)
    assert found.base_seconds == pytest.approx(true.base_seconds, rel=1e-6)
    assert found.seconds_per_pair == pytest.approx(true.seconds_per_pair, rel=1e-6)
    assert found.held_out_error_fraction < 1e-6
    assert len(features(shapes[0])) == 5


def test_simulator_follows_the_same_rules_as_the_loop() -> None:
    """On a clock that iterations advance by their prices, the real loop's times are the simulator's."""
    prices = MeasuredPrices(4e-3, 1e-5, 1e-4, 1e-7, 1e-8, 0.0)
    requests = Requests(np.zeros(6), np.array([50, 10, 8, 30, 90, 20]), np.array([5, 9, 4, 2, 6, 7]))
    clock = [0.0]
    taken: list[float] = []

    def iterate(pieces: list[Piece]) -> None:
        prompts = [piece for piece in pieces if piece.is_prompt]
        decodes = [piece for piece in pieces if not piece.is_prompt]
        shape = IterationShape(
            tuple(piece.new for piece in prompts), tuple(piece.past for piece in prompts), len(decodes),
            float(sum(piece.past + 1 for piece in decodes)),
        )  # fmt: skip
        clock[0] += prices.iteration_seconds(shape)
        taken.append(clock[0])

    columns = (requests.arrival_seconds, requests.input_tokens, requests.output_tokens)
    asked = [Asked(*row) for row in zip(*(column.tolist() for column in columns), strict=True)]
    serve(asked, iterate, num_slots=4, token_budget=64)
    said = predicted(Server(LLAMA, 1, 4, 64), requests, prices)
    assert float(requests.output_tokens.sum()) / said.output_tokens_per_second == pytest.approx(taken[-1])


def made_by_two(values: dict[str, Any], report: Any) -> dict[str, Any]:
    """The body of a rank: a prompt and two more tokens of a model on two ranks."""
    join(torch.device("cpu"), 2, 60.0)
    model = ServedModel(LLAMA, 3, 64, dist.get_rank(), values["tp"], values["pp"])
    made = []
    for piece in ALONE:
        model.iterate(piece)
        made.append(int(model.latest[1]))
    dist.destroy_process_group()
    return {"made": made}


@pytest.mark.slow
@pytest.mark.parametrize("split", [{"tp": 1, "pp": 2}], ids=str)
def test_two_ranks_make_the_tokens_of_one(split: dict[str, int]) -> None:
    """However they share the layers, and both know them."""
    found = launch(made_by_two, split, 2, timeout_seconds=60.0, oversubscribe=True)
    assert [one["made"] for one in found] == [tokens(ALONE, 1)] * 2


@pytest.mark.slow
@pytest.mark.parametrize("split", ["tp = 2", "pp = 2"])
def test_two_ranks_serve_a_job(tmp_path: Path, split: str) -> None:
    """From the command line: figures of requests, their prediction, and its errors."""
    (tmp_path / "model.toml").write_text(
        'name = "tiny"\nfamily = "test"\nsource = "a test"\nnum_layers = 2\nhidden_size = 64\nnum_heads = 4\n'
        "num_kv_heads = 2\nhead_dim = 16\n"
        "ffn_size = 128\nvocabulary_size = 97\nmax_sequence_length = 256\ngated_ffn = true\n"
    )
    (tmp_path / "job.toml").write_text(
        '[job]\nkind = "serving"\ncluster = "dgx-h100"\n'
        "[load]\nrequests_per_second = 10.0\nrequests = 10\ninput_tokens = 40\noutput_tokens = 8\n"
        '[serving]\nmodel = "model.toml"\n' + split + "\n"
    )
    done = meshwise("validate", str(tmp_path / "job.toml"), "--oversubscribe", "--json")
    assert done.code == 0, done.err
    load = json.loads(done.out)["loads"][0]
    assert load["num_requests"] == 10
    assert load["measured"]["tpot_seconds"] > 0.0
    assert load["predicted"]["ttft_seconds"] > 0.0


@pytest.mark.parametrize(
    ("serving", "sentence"),
    [
        ('model = "gpt-20m"\nreplicas = 2', "serving.replicas: the server of validate knows"),
        ('model = "mixtral-8x7b"', "has experts"),
        ('model = "gpt-20m"\ntp = 4', "tp: 4 does not divide"),
        ('model = "gpt-20m"\npp = 99', "pp: 99 stages are more"),
    ],
)
def test_what_the_server_cannot_do_is_refused(serving: str, sentence: str, tmp_path: Path) -> None:
    """In one sentence."""
    (tmp_path / "job.toml").write_text(
        '[job]\nkind = "serving"\ncluster = "dgx-h100"\n'
        "[load]\nrequests_per_second = 10.0\nrequests = 10\ninput_tokens = 40\noutput_tokens = 8\n"
        f"[serving]\n{serving}\n"
    )
    done = meshwise("validate", str(tmp_path / "job.toml"))
    assert done.code == 2
    assert sentence in done.err
