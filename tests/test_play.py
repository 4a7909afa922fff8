"""Play: dreams are what the model draws, and an environment like any other; plans are the best of what is tried."""

import warnings
from dataclasses import replace
from itertools import islice
from pathlib import Path

import gymnasium
import numpy as np
import pytest
import torch
from conftest import make_model, random_images
from gymnasium.utils.env_checker import check_env

import image_transformer as it
from image_transformer.cli.main import main
from image_transformer.conditions.frames import Action, Frames
from image_transformer.config.data import DataConfig
from image_transformer.config.run import RunConfig
from image_transformer.config.sampling import Plan, Sampling, Search
from image_transformer.data.clips import load_clips
from image_transformer.data.recording import END, REWARD, outcome_of, read_recording
from image_transformer.geometry.order import Wavefront
from image_transformer.geometry.patterns import Local1D, Nothing
from image_transformer.inference.fixed_point import WAYS, FixedPoint
from image_transformer.inference.rollout import FRAMES, Clips
from image_transformer.inference.sampling import generate
from image_transformer.measures import clips as measures
from image_transformer.measures.clips import first_masses
from image_transformer.play import episodes, planning
from image_transformer.play.dream import Outcome, World
from image_transformer.play.episodes import Played, at_random, play
from image_transformer.play.planning import planner, scores, tried

LENGTH = 4
SHAPE = (3, 3, LENGTH)  # a row more than the corridor


class Corridor(gymnasium.Env):
    """A light that moves left or right, 2 x 4 pixels; at the right end it is rewarded, and over."""

    metadata = {"render_modes": ["rgb_array"], "render_fps": 10}  # noqa: RUF012
    observation_space = gymnasium.spaces.Discrete(LENGTH)
    action_space = gymnasium.spaces.Discrete(2)

    def __init__(self, render_mode=None):
        self.render_mode = render_mode

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.at = int(self.np_random.integers(LENGTH - 2))
        return self.at, {}

    def step(self, action):
        self.at = min(LENGTH - 1, max(0, self.at + (1 if action else -1)))
        over = self.at == LENGTH - 1
        return self.at, float(over), over, False, {}

    def render(self):
        picture = np.zeros((2, LENGTH, 3), np.uint8)
        picture[:, self.at] = 255
        return picture


class Endless(Corridor):
    """Every step is rewarded and none ends it; after three the environment stops."""

    def reset(self, *, seed=None, options=None):
        self.steps = 0
        return super().reset(seed=seed)

    def step(self, action):
        self.steps += 1
        return self.at, 1.0, False, self.steps == 3, {}


gymnasium.register("Corridor-v0", Corridor)
gymnasium.register("Endless-v0", Endless)


@pytest.fixture
def screen():
    return it.Screen("Corridor-v0")


def world_model(**fields):
    conditions = (Frames(1), Action(("start", "0", "1")))
    scheme = (Wavefront(1), (Nothing(), Local1D(5, 4)))
    return make_model(scheme, shape=SHAPE, conditions=conditions, encoder_depth=1, likelihood="chained", **fields)


def pictures(count, seed=0):
    return list(np.random.default_rng(seed).integers(0, 256, (count, 2, LENGTH, 3), np.uint8))


def recorded(folder, steps=400):
    assert main(["record", "Corridor-v0", "--steps", str(steps), "--out", str(folder)]) == 0
    return str(folder)


# ---- dreams ----


def test_a_dream_is_what_the_model_draws():
    model = world_model().double()
    world, frames = World(model), pictures(3)
    played = Played(frames, [0.0, 0.0, 0.5])
    actions = np.random.default_rng(0).integers(0, 2, (10, 2))
    found = world.imagine(played, actions, seed=5)
    for number in range(10):
        row = number
        before = torch.from_numpy(np.pad(frames[-1].transpose(2, 0, 1), ((0, 0), (0, 1), (0, 0))))
        before[:, -1, REWARD] = 64  # half of 127, rounded
        for step in range(2):
            told = {"frames": before[None, None], "action": [str(actions[row, step])]}
            drawn = generate(model, 1, seed=5, numbers=[number * FRAMES + len(frames) + step], **told)[0]
            (reward,), (over,) = outcome_of(drawn[None].numpy())
            assert found.rewards[row, step] == reward
            if over:
                assert found.ended[row] and (found.rewards[row, step + 1 :] == 0).all()
                break
            before = drawn
        else:
            assert not found.ended[row]
    assert found.ended.any() and not found.ended.all(), "both kinds are there"


def test_what_is_imagined_depends_neither_on_the_others_nor_on_what_is_remembered():
    model = world_model().double()
    actions = np.random.default_rng(0).integers(0, 2, (6, 4))
    world, played = World(model), Played(pictures(1), [0.0])
    found = world.imagine(played, actions)
    again = world.imagine(played, actions)
    assert world.fixed.settled > 0 and np.array_equal(again.rewards, found.rewards)
    alone = World(model, remember=0).imagine(played, actions[:2])
    assert np.array_equal(alone.rewards, found.rewards[:2]) and np.array_equal(alone.ended, found.ended[:2])
    for other in (
        World(model).imagine(played, actions, seed=1),
        World(model).imagine(Played(pictures(1, 9) + played.frames, [0.0, 0.0]), actions),
        World(model).imagine(Played(played.frames, [1.0]), actions),
        World(model, 0.5).imagine(played, actions),
    ):
        assert not np.array_equal(other.rewards, found.rewards), "seed, time, reward and temperature count"


def test_the_likeliest_frames_are_remembered():
    model = world_model()
    fixed = FixedPoint(model, 1)
    with torch.inference_mode():
        for scale in (
            3.0,
            0.1,
            1.0,
            2.0,
            0.5,
            3.0,
        ):  # of parameters: the larger, the surer, or the surer of another value
            torch.manual_seed(0)
            params = scale * torch.randn(model.layout.num_positions, model.likelihood.num_params)
            fixed._keep(b"", params, random_images(1, SHAPE, seed=int(10 * scale))[0], 1.0)
    kept = [one.log_prob for one in fixed.drawn[b""]]
    assert len(kept) == WAYS and kept == sorted(kept, reverse=True) and len(set(kept)) == WAYS


def test_clips_are_kept_as_they_are():
    model = world_model().double()
    begun, told = torch.zeros(4, 0, *SHAPE, dtype=torch.uint8), {"action": ["start"] * 4}
    all_of, some = (Clips(model, begun, Sampling(3)) for _ in range(2))
    first = all_of.step(**told)
    assert torch.equal(some.step(**told), first)
    some.keep([3, 1])
    second = all_of.step(action=["0", "1", "0", "1"])
    assert torch.equal(some.step(action=["1", "1"]), second[[3, 1]])


def until_end(env):
    played = [env.step(1)]
    while not played[-1][2]:
        played.append(env.step(len(played) % 2))
    return played


@pytest.mark.parametrize("given", [False, True])
def test_a_dream_passes_the_check_of_gymnasium(tmp_path, given):
    starts = load_clips(recorded(tmp_path), "all") if given else None
    env = it.Dream(world_model(), starts)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.filterwarnings("ignore", ".*(not within the observation space|render).*")
        check_env(env, skip_render_check=True)
    first, _ = env.reset(seed=3)
    assert env.observation_space.contains(first) and first.shape == (2, LENGTH, 3) and env.actions == ("0", "1")
    played = until_end(env)
    again, _ = env.reset(seed=3)
    assert np.array_equal(first, again)
    for before, now in zip(played, until_end(env), strict=True):
        assert np.array_equal(before[0], now[0]) and before[1:] == now[1:]
    assert np.array_equal(env.render(), played[-1][0])
    if given:
        assert {env.reset(seed=seed)[0].tobytes() for seed in range(20)} == {
            frame[:, :-1].transpose(1, 2, 0).tobytes() for frame in starts.images[starts.past.place == 0]
        }


def test_dreams_of_other_models_and_starts_are_refused():
    with pytest.raises(ValueError, match="no world model"):
        it.Dream(make_model((Wavefront(1), (Nothing(),)), shape=SHAPE))
    with pytest.raises(ValueError, match=r"recorded play of frames \(2, 4, 3\)"):
        it.Dream(world_model(), load_clips("bouncing", "test"))
    with pytest.raises(ValueError, match=r"has frames \(2, 4, 3\), got \(5, 4, 3\)"):
        World(world_model()).begin(Played([np.zeros((5, 4, 3), np.uint8)], [0.0]), [0])


def test_dreams_are_begun_and_go_on_by_actions_that_are_there(tmp_path, screen):
    starts = load_clips(recorded(tmp_path), "all")
    later = starts.rows(np.flatnonzero(starts.past.place > 0))
    unnamed = replace(starts, classes=("0", "1", "2"))
    for wrong, message in ((later, "a first frame"), (unnamed, "recorded play")):
        with pytest.raises(ValueError, match=message):
            it.Dream(world_model(), wrong)
    world = World(world_model())
    env, other = it.Dream(world, starts), it.Dream(world, starts)
    assert env.world is other.world
    for out_of_turn in (lambda: env.step(0), env.render):
        with pytest.raises(gymnasium.error.ResetNeeded):
            out_of_turn()
    env.reset(seed=0)
    screen.reset(seed=0)
    for one in (env, screen):
        for action in (-1, 2, 1.5):
            with pytest.raises(ValueError, match="actions are 0 to 1"):
                one.step(action)
    until_end(env)
    with pytest.raises(gymnasium.error.ResetNeeded):
        env.step(0)


# ---- planning ----


def test_a_screen_is_an_environment_of_its_pictures(screen):
    check_env(screen, skip_render_check=True)
    assert screen.actions == ("0", "1") and screen.observation_space.shape == (2, LENGTH, 3)
    turned = it.Screen("Corridor-v0", actions=["1", "0"])
    turned.reset(seed=0)
    turned.env.unwrapped.at = 1
    frame, reward, over, stopped, _ = turned.step(0)
    assert frame[0, 2, 0] == 255 and (reward, over, stopped) == (0.0, False, False)


@pytest.mark.parametrize("space", [gymnasium.spaces.Discrete(2, start=1), gymnasium.spaces.MultiBinary(3)])
def test_actions_are_those_of_the_space(space, monkeypatch):
    monkeypatch.setattr(Corridor, "action_space", space)
    if isinstance(space, gymnasium.spaces.MultiBinary):
        with pytest.raises(ValueError, match="only environments with numbered actions"):
            it.Screen("Corridor-v0")
        return
    shifted = it.Screen("Corridor-v0")
    assert shifted.actions == ("1", "2") and shifted.numbers == [1, 2]
    fewer = it.Screen("MiniGrid-Dynamic-Obstacles-5x5-v0", tile_size=4)
    assert fewer.actions == ("left", "right", "forward"), "its enum knows seven"
    for wrong in (["1", "1"], ["3"]):
        with pytest.raises(ValueError, match="action"):
            it.Screen("Corridor-v0", actions=wrong)


def test_every_second_action_of_a_sequence_is_the_one_before_it():
    drawn = planning.sequences(Search(4000, 10, 5), 4, np.random.default_rng(0))
    share = (drawn[:, 1:] == drawn[:, :-1]).mean()
    assert abs(share - (0.5 + 0.5 / 4)) < 0.01 and np.bincount(drawn[:, -1]).min() > 800
    for wrong in ({"candidates": 0}, {"every": 0}, {"horizon": 4}):
        with pytest.raises(
            ValueError, match=r"candidates must be at least 1, got 0|every must lie between 1 and horizon"
        ):
            Search(**wrong)


def test_the_best_sequence_has_most_reward_and_soonest():
    sequences = np.arange(12).reshape(3, 4)
    rewards = np.zeros((3, 4), np.float32)
    assert planning.best(sequences, Outcome(rewards, rewards[:, 0] > 0)).tolist() == [0, 1, 2, 3]
    rewards[0, 3] = rewards[2, 1] = 1
    assert planning.best(sequences, Outcome(rewards, rewards[:, 0] > 0)).tolist() == [8, 9, 10, 11]
    rewards[1, 0] = rewards[1, 3] = 0.5
    assert planning.best(sequences, Outcome(rewards, rewards[:, 0] > 0)).tolist() == [8, 9, 10, 11], "0.96 of 0.97"


def test_trying_leaves_the_world_as_it_was_and_says_what_it_does(screen):
    screen.reset(seed=0)
    at = screen.env.unwrapped.at = 1
    found = tried(screen)(Played([], []), np.array([[1, 1, 0], [0, 0, 1], [0, 1, 1], [1, 0, 1]]), 0)
    assert found.rewards.tolist() == [[0, 1, 0], [0, 0, 0], [0, 0, 0], [0, 0, 0]]
    assert found.ended.tolist() == [True, False, False, False] and screen.env.unwrapped.at == at
    screen.env.unwrapped.clock = (number for number in ())  # as those of environments that draw with pygame
    with pytest.raises(ValueError, match="cannot be copied"):
        tried(screen)(Played([], []), np.array([[1]]), 0)


def first(episodes, played):
    return list(islice(played, episodes))


def solved(played):
    return sum(one.solved for one in played) / len(played)


def test_scores_say_what_was_solved_and_follow_from_the_seed(screen):
    right = first(20, scores(screen, lambda played, rng: [1], 5))
    assert all(one.solved and one.rewards == 1 and one.steps <= 3 for one in right)
    assert first(5, scores(screen, lambda played, rng: [0, 0], 5)) == 5 * [(False, 0, 5)]
    once, again, other = (first(50, scores(screen, at_random(2), 4, seed=seed)) for seed in (1, 1, 2))
    assert once == again != other
    assert 0 < solved(once) < 1 and all(one.solved == (one.rewards > 0) for one in once)


def test_what_the_environment_stops_is_over_and_not_solved():
    assert first(3, scores(it.Screen("Endless-v0"), at_random(2), 10)) == 3 * [(False, 3.0, 3)]
    assert first(3, scores(it.Screen("Endless-v0"), at_random(2), 2)) == 3 * [(False, 2.0, 2)]


def test_scores_are_of_other_episodes_than_a_recording():
    rooms, begun = it.Screen("MiniGrid-DoorKey-5x5-v0", tile_size=4), []
    first(5, scores(rooms, lambda played, rng: begun.append(played.frames[0]) or [0], 1))
    recorded = [play(rooms, at_random(1), number, 1, np.random.default_rng(0)).frames[0] for number in range(5)]
    assert all(not np.array_equal(one, other) for one, other in zip(begun, recorded, strict=True))


def test_plans_are_made_anew_after_so_many_steps(screen):
    asked, seeds = [], set()

    def outlook(played, actions, seed):
        asked.append((len(played.frames), len(played.rewards), actions.shape))
        seeds.add(seed)
        return Outcome(np.zeros(actions.shape, np.float32), np.zeros(len(actions), np.bool_))

    first(2, scores(screen, planner(outlook, 1, Search(7, 6, 3)), 8))  # one action only: left
    assert asked == [(frames, frames, (7, 6)) for _ in (0, 1) for frames in (1, 4, 7)]
    assert len(seeds) == 6, "each plan has noise of its own"


def test_a_world_model_learns_a_corridor_and_plans_in_it(tmp_path, screen, capsys, monkeypatch):
    source = recorded(tmp_path / "play", 1_500)
    model = it.Modern(
        shape=SHAPE, depth=2, width=32, heads=2, feed_forward=64, attention=(Nothing(),), encoder_depth=1,
        likelihood="chained", min_log_scale=-10.0, conditions=(Frames(1), Action()),
    )  # fmt: skip
    train = it.TrainConfig(
        images=6_000, batch=16, warmup=300, lr=3e-3, decay=0.7, validate_every=6_000, validation_images=100,
        closed_form_start=True,
    )  # fmt: skip
    it.train(RunConfig(model=model, data=DataConfig(source), train=train), tmp_path / "run", show_progress=False)
    trained, test = it.load(tmp_path / "run"), load_clips(source, "test")
    end, reward = first_masses(trained, test, [END, REWARD]).swapaxes(0, 1)
    assert np.abs(end.sum(-1) - 1).max() < 1e-5
    ended = test.images[:, 0, -1, END] > 127
    assert ended.any() and end[ended, 255].min() > 0.9 and end[~ended, 0].min() > 0.9
    assert reward[ended, 127].min() > 0.8, "the reward is 1"
    found = measures.clips(trained, test, test, np.ones(len(test)), Plan(), lambda text: None)
    _, outcomes, continued = found.tables
    assert [row[0] for row in outcomes.rows] == ["end", "end", "reward", "reward"]
    assert [float(row[4]) for row in outcomes.rows] == [0, 100, 0, 100], "certain of the right ones"
    assert float(continued.rows[0][1]) > 90, "each frame follows from the action before it"
    search, world = Search(30, 4, 2), World(trained)
    players = planner(world.imagine, 2, search), planner(tried(screen), 2, search), at_random(2)
    by_model, by_truth, blind = (solved(first(40, scores(screen, one, 4))) for one in players)
    assert by_truth == 1 and by_model > 0.9 > blind
    assert world.fixed.settled > 0.8 * world.fixed.drawings, "what is certain is remembered"
    line = ["plan", str(tmp_path / "run"), "Corridor-v0", "--episodes", "3", "--limit", "4", "--horizon", "5"]
    capsys.readouterr()
    for by in ("model", "simulator", "random"):
        assert main([*line, "--by", by]) == 0
        said = capsys.readouterr().out
        assert (
            "of 3 episodes" in said
            and "return" in said
            and f"planned by {by}" in said
            and (" frames imagined, " in said) == (by == "model")
        )
    for wrong, message in (
        (line[:2], "needs an environment"), ([*line, "--every", "9"], "every must lie between 1 and horizon"),
        (["plan", "cifar10", *line[2:]], "no world model"), ([*line, "--size", "3", "3"], "shows frames (3, 3, 3)"),
        ([*line[:2], "CorridorX-v0"], "cannot be made"),
        (["record", "Corridor-v0", "--policy", line[1], "--actions", "1", "0"], "knows the actions 0, 1, not 1, 0"),
        (["record", "Corridor-v0", "--horizon", "30"], "are for plans, with --policy MODEL"),
        ([*line, "--by", "random", "--temperature", "0.5"], "not of --by random"),
        ([*line, "--temperature", "0"], "temperature must be positive"),
    ):  # fmt: skip
        assert main(wrong) != 0
        assert message in capsys.readouterr().err
    asked = iter([[1, 1, 1], [0, 0, 0]])

    def stopped(played, rng):
        for plan in asked:
            return plan
        raise KeyboardInterrupt

    monkeypatch.setattr(episodes, "at_random", lambda actions: stopped)
    assert main([*line, "--by", "random", "--limit", "3"]) == 130
    said = capsys.readouterr()
    assert said.out.startswith("50.0 ± ") and "of 2 episodes" in said.out and "interrupted" in said.err
    again = ["record", "Corridor-v0", "--steps", "1540", "--out", source, "--policy", line[1], "--horizon", "4"]
    before = len(read_recording(Path(source))[0])
    assert main([*again, "--every", "2", "--temperature", "0.5"]) == 0
    planned = read_recording(Path(source))[0][before:]
    assert len(planned) >= 5 and max(len(frames) for frames, _ in planned) <= 6, "those at random last longer"
    with np.load(sorted(Path(source).glob("*.npz"))[-1]) as part:
        assert str(part["policy"]) == f"plans of {line[1]}: candidates 100, horizon 4, every 2, temperature 0.5"
