"""Play at random, by plans, and by policies: which episodes are solved, in the real environment.

    python benchmarks/dreaming.py runs/world recordings/MiniGrid-Empty-8x8-v0 [--limit 50] [--horizon 20] [--every 5]

A policy (PPO of stable-baselines3, two hidden layers of 64) is trained in dreams of the model that begin with recorded
first frames, and, to compare, in the real environment for as many steps as were recorded and for as many as in dreams.
A row is printed when it is done: share of all episodes of all seeds, with its standard error over seeds, and the time.
Needs the extras [rl] and [bench].
"""

import argparse
import time
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from gymnasium.wrappers import TimeLimit
from stable_baselines3 import PPO
from stable_baselines3.common.vec_env import DummyVecEnv

import image_transformer as it
from image_transformer.config.sampling import Search
from image_transformer.data.recording import parts_of, read_about, read_episodes
from image_transformer.play.dream import World
from image_transformer.play.episodes import at_random
from image_transformer.play.planning import planner, scores, tried

ENVS = 8

parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
parser.add_argument("model")
parser.add_argument("recording", type=Path)
parser.add_argument("--limit", type=int, default=50, help="steps of an episode")
parser.add_argument("--candidates", type=int, default=100)
parser.add_argument("--horizon", type=int, default=20)
parser.add_argument("--every", type=int, default=5)
parser.add_argument("--episodes", type=int, default=100, help="for each seed")
parser.add_argument("--seeds", type=int, default=3)
parser.add_argument("--temperature", type=float, default=1.0, help="of all that the model imagines")
parser.add_argument("--dreamt", type=int, default=100_000, help="steps of a policy in dreams")
parser.add_argument("--rows", nargs="*", help="which of them; all if not given")
chosen = parser.parse_args()

torch.set_num_threads(1)
about = read_about(chosen.recording)
screen = it.Screen(about.environment, size=about.size, tile_size=about.tile_size, actions=about.actions)
count = len(about.actions)
steps = sum(len(one.frames) - 1 for part in parts_of(chosen.recording) for one in read_episodes(part))
model = it.load(chosen.model)
assert World(model).actions == about.actions
starts = it.load_clips(str(chosen.recording), "all")
search = Search(chosen.candidates, chosen.horizon, chosen.every)


def dream(world):
    return TimeLimit(it.Dream(world, starts), chosen.limit)  # all of them remember together


def real():
    return TimeLimit(
        it.Screen(about.environment, size=about.size, tile_size=about.tile_size, actions=about.actions), chosen.limit
    )


def policy(make, total, seed):
    envs = DummyVecEnv([make] * ENVS)
    agent = PPO(
        "MlpPolicy", envs, n_steps=128, batch_size=256, n_epochs=4, gamma=0.97, gae_lambda=0.9, ent_coef=0.02,
        seed=seed, device="cpu",
    )  # fmt: skip
    agent.learn(total)
    return lambda played, rng: [int(agent.predict(played.frames[-1])[0])]


def table():
    yield "at random", lambda seed, world: at_random(count)
    yield "plans, true simulator", lambda seed, world: planner(tried(screen), count, search)
    yield "plans, model", lambda seed, world: planner(world.imagine, count, search)
    yield f"policy, {steps:,} real steps", lambda seed, world: policy(real, steps, seed)
    yield (
        f"policy, {chosen.dreamt:,} dreamt steps",
        lambda seed, world: policy(lambda: dream(world), chosen.dreamt, seed),
    )
    yield f"policy, {chosen.dreamt:,} real steps", lambda seed, world: policy(real, chosen.dreamt, seed)


for name, make in table():
    if chosen.rows and not any(part in name for part in chosen.rows):
        continue
    world = World(model, chosen.temperature)  # each row remembers for itself
    begun, rates, took = time.process_time(), [], []
    for seed in range(chosen.seeds):
        torch.manual_seed(seed)
        played = scores(screen, make(seed, world), chosen.limit, seed=1 + seed)
        solved, _, taken = np.array(list(islice(played, chosen.episodes))).T
        rates.append(100 * solved.mean())
        took.append(taken.mean())
        print(f"  {name}, seed {seed}: {rates[-1]:.1f} %, {time.process_time() - begun:.0f} CPU-s", flush=True)
    error = np.std(rates, ddof=1) / np.sqrt(len(rates)) if len(rates) > 1 else float("nan")
    said = f"{name:32} {np.mean(rates):5.1f} ± {error:3.1f} % {np.mean(took):5.1f} steps"
    print(f"{said} {time.process_time() - begun:7.0f} CPU-s  by seed {np.round(rates, 1).tolist()}", flush=True)
    if (fixed := world.fixed).drawings:
        print(f"    {fixed.drawings:,} frames dreamt, {100 * fixed.settled / fixed.drawings:.2f} % of them from memory")
