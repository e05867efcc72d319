"""Each file of examples/ does what it says, on a real farm whose one worker is a machine of a pool."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType

import pytest
from PIL import Image

from coalition.cli import job_file
from coalition.hooks import HEADER, signature
from coalition.model import Job, JobSpec
from scripts import pack_submitters, packages
from tests.e2e.farm import RealFarm
from tests.polling import poll_until

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
DESK = f"provider = own_provider:Desks\nstartup = {sys.executable} -m coalition worker\naffinity = desk\nmax = 1\nidle = 1s"
KEY = "a key of the studio"
POOL = "provider = local\nmax = 1\nslots = 4\nprice = 0.36\nidle = 10m\nboot_timeout = 30s\nfunding = 30s"
BUDGET = "amount = 5.00\nwindow = day\nhard = yes\napplies_to = pool:burst"


@pytest.fixture(scope="module")
def farm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RealFarm]:
    """With a machine of a pool, one of a provider that is not ours, and somebody who hears of what is finished."""
    folder = tmp_path_factory.mktemp("farm")
    key = folder / "chat.key"
    key.touch(mode=0o600)
    key.write_text(f"{KEY}\n")
    hook = f"url = {{url}}\nsecret_file = {key}\nevents = finished"
    sections = {"autoscaler": "interval = 0.5", "pool_burst": POOL, "budget_burst": BUDGET, "pool_desk": DESK}
    receiver = [sys.executable, str(EXAMPLES / "webhook_receiver.py"), "--key-file", str(key), "--port", "0"]
    with pytest.MonkeyPatch.context() as patch, (folder / "receiver.log").open("wb") as log:
        patch.setenv("PYTHONPATH", str(EXAMPLES))
        hears = subprocess.Popen(receiver, stdout=log, stderr=log)
        try:
            (url,) = poll_until(lambda: re.findall(r"listening on (\S+)\n", (folder / "receiver.log").read_text()))
            made = RealFarm(folder, **sections, webhook_chat=hook.format(url=url))
            try:
                made.serve()
                yield made
            finally:
                made.close()
        finally:
            hears.kill()
            hears.wait()


def submitted(farm: RealFarm, name: str, folder: Path) -> Job:
    """The job of a file, run to its end in a folder."""
    (given,) = job_file.read(EXAMPLES / name)
    return farm.finished(farm.client.submit_many([_in(folder, given)]).ids[0])


def _in(folder: Path, given: JobSpec) -> JobSpec:
    """The same, with the folder of it and of all below it."""
    return replace(given, dir=str(folder), children=tuple(_in(folder, child) for child in given.children))


def program(farm: RealFarm, *words: str, folder: Path) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "COALITION_SERVER": farm.address, "PYTHONPATH": str(EXAMPLES.parent)}
    return subprocess.run([sys.executable, *words], env=environment, cwd=folder, capture_output=True, text=True, timeout=60)


def test_frames_are_jobs_of_their_own(farm: RealFarm, tmp_path: Path) -> None:
    job = submitted(farm, "frames.toml", tmp_path)
    assert [leaf.title for leaf in farm.leaves(job.id)] == [f"frames {frame}" for frame in range(1, 21, 2)]
    assert {path.name for path in tmp_path.iterdir()} == {f"frame.{frame:04d}.txt" for frame in range(1, 21, 2)}


def test_a_chunk_of_frames_is_one_job(farm: RealFarm, tmp_path: Path) -> None:
    job = submitted(farm, "chunks.toml", tmp_path)
    assert [leaf.title for leaf in farm.leaves(job.id)] == [f"chunk {start} to {start + 4}" for start in (1, 6, 11, 16)]
    assert len(list(tmp_path.iterdir())) == 20


def test_a_frame_waits_for_its_own_frames_only(farm: RealFarm, tmp_path: Path) -> None:
    submitted(farm, "frame_by_frame.toml", tmp_path)
    for frame in range(1, 6):
        assert (tmp_path / f"comp.{frame}.txt").read_text() == f"rendered {frame}\nrendered {frame + 1}\n"


def test_no_more_run_than_there_are_licences(farm: RealFarm, tmp_path: Path) -> None:
    farm.client.set_limit("renderer", 2)
    job = submitted(farm, "licences.toml", tmp_path)
    runs = [run for leaf in farm.leaves(job.id) for run in farm.client.attempts(leaf.id)]
    assert len(runs) == 6
    moments = sorted([(run.started_at, 1) for run in runs] + [(run.ended_at, -1) for run in runs])
    at_once = [sum(step for _, step in moments[: index + 1]) for index in range(len(moments))]
    assert max(at_once) <= 2


def test_a_shot_of_three_steps_runs_in_their_order(farm: RealFarm, tmp_path: Path) -> None:
    shot = submitted(farm, "shot.toml", tmp_path)
    sim, frames, film = farm.leaves(shot.id)
    first = min(leaf.started_at or 0.0 for leaf in farm.leaves(frames.id))
    assert (sim.ended_at or 0.0) <= first
    assert (film.started_at or 0.0) >= max(leaf.ended_at or 0.0 for leaf in farm.leaves(frames.id))


def test_a_script_submits_and_follows(farm: RealFarm, tmp_path: Path) -> None:
    told = program(farm, str(EXAMPLES / "submit_frames.py"), "1-3", "--", "echo", "frame {frame}", folder=tmp_path)
    assert told.returncode == 0, told.stdout + told.stderr
    assert told.stdout.splitlines()[-1] == "example: FINISHED 4/4"


def test_a_checkpointed_job_runs_like_any_other(farm: RealFarm, tmp_path: Path) -> None:
    shutil.copy(EXAMPLES / "checkpoint.sh", tmp_path)
    job = submitted(farm, "checkpoint.toml", tmp_path)
    assert farm.client.log(job.id).data.endswith(b"100%\nall 20 steps are done\n")
    assert job.environment["COALITION_CHECKPOINT_SIGNAL"] == "USR1"


def test_what_was_saved_is_not_done_again(tmp_path: Path) -> None:
    words = [str(EXAMPLES / "checkpoint.sh"), str(tmp_path / "saved"), "1000"]
    with (tmp_path / "log").open("wb") as log:
        first = subprocess.Popen(words, stdout=log)
    poll_until(lambda: b"1%" in (tmp_path / "log").read_bytes())
    first.send_signal(signal.SIGUSR1)
    poll_until(lambda: (tmp_path / "saved").exists())
    first.send_signal(signal.SIGTERM)
    assert first.wait(timeout=10) == 143
    saved = int((tmp_path / "saved").read_text())
    assert saved >= 10
    again = subprocess.run([*words[:2], str(saved + 2)], capture_output=True, text=True, timeout=20, check=True)
    assert again.stdout.startswith(f"beginning after step {saved}\n")
    assert len(re.findall(r"%\n", again.stdout)) == 2
    assert not (tmp_path / "saved").exists()


def test_the_report_tells_what_machines_cost(farm: RealFarm, tmp_path: Path) -> None:
    submitted(farm, "chunks.toml", tmp_path)
    farm.client.terminate_instances([one["id"] for one in farm.client.instances()])
    poll_until(lambda: farm.client.ledger(group_by="pool"), 30, lambda: farm.log_of("server"))
    told = program(farm, str(EXAMPLES / "cost_report.py"), "--days", "2", folder=tmp_path)
    assert told.returncode == 0, told.stderr
    assert re.search(r"^  burst +0\.\d\d USD +0\.0 h +\d+% idle$", told.stdout, re.MULTILINE)
    assert re.search(r"^  burst +\d\.\d\d USD  of 5\.00 USD a day$", told.stdout, re.MULTILINE)


def states_of(farm: RealFarm, pool: str) -> set[str]:
    return {one["state"] for one in farm.client.instances(pool=pool, all=True)}


def test_a_studio_s_own_provider_starts_a_worker_and_ends_it(farm: RealFarm) -> None:
    job = farm.client.submit(title="at a desk", command="echo here", affinity=["desk"])
    farm.finished(job)
    assert states_of(farm, "desk")
    poll_until(lambda: states_of(farm, "desk") == {"GONE"}, 40, lambda: (farm.client.instances(), farm.log_of("server")))


def test_the_receiver_believes_the_farm_and_no_stranger(farm: RealFarm) -> None:
    job = farm.client.submit(title="told of", command="true")
    farm.finished(job)
    told = farm.folder / "receiver.log"
    line = f"{farm.mark}: finished: job {job} told of: finished\n"
    poll_until(lambda: line in told.read_text(), 40, lambda: (told.read_text(), farm.log_of("server")))
    url = re.findall(r"listening on (\S+)\n", told.read_text())[0]
    body = b'{"farm": "x", "kind": "finished", "title": "a lie"}'
    stranger, late = signature("another key", body, time.time()), signature(KEY, body, time.time() - 3_600)
    for signed in ({}, {HEADER: stranger}, {HEADER: late}):
        with pytest.raises(urllib.error.HTTPError, match="403"):
            urllib.request.urlopen(urllib.request.Request(url, body, signed), timeout=10)
    assert "a lie" not in told.read_text()


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The client alone, and Blender's add-on."""
    return pack_submitters.pack(tmp_path_factory.mktemp("packed"))


def test_the_client_alone_runs_in_a_python_that_has_nothing_else(farm: RealFarm, packed: tuple[Path, Path]) -> None:
    script = f"""
import sys
sys.path.append({str(packed[0])!r})
from coalition.client import Client
with Client({farm.address!r}) as farm:
    job = farm.submit(title="from an application", command="echo here")
    print(farm.wait(job)[0].state)
"""
    told = subprocess.run([sys.executable, "-I", "-S", "-c", script], capture_output=True, text=True, timeout=60, check=False)
    assert told.stdout == "FINISHED\n", told.stderr


RECIPES = (EXAMPLES.parent / "submitters/README.md").read_text(encoding="utf-8")


def recipe(farm: RealFarm, program: str, folder: Path, changes: Mapping[str, str] = MappingProxyType({})) -> Job:
    """The job that the recipe of a program makes, with some of its words changed, run to its end in a folder."""
    (line,) = re.findall(rf"^    (coalition submit .* -- {program} .*)$", RECIPES, re.MULTILINE)
    for here, there in changes.items():
        assert here in line
        line = line.replace(here, there)
    words = [sys.executable, "-m", "coalition", "--server", farm.address, *shlex.split(line.replace("$PWD", str(folder)))[1:]]
    environment = {**os.environ, "PYTHONPATH": str(EXAMPLES.parent)}
    told = subprocess.run(words, cwd=folder, env=environment, capture_output=True, text=True, timeout=60, check=False)
    assert told.returncode == 0, told.stderr
    return farm.finished(int(told.stdout))


def test_the_recipe_of_python_runs_its_frames(farm: RealFarm, tmp_path: Path) -> None:
    (tmp_path / "render.py").write_text("import sys\nopen(f'out.{sys.argv[2]}', 'w').write('rendered')\n")
    job = recipe(farm, "python3", tmp_path)
    assert len(farm.leaves(job.id)) == len(list(tmp_path.glob("out.*"))) == 10


def test_the_recipe_of_pov_ray_renders_its_frames(farm: RealFarm, tmp_path: Path) -> None:
    if why := packages.ensure(["povray"]):
        pytest.skip(why)
    (tmp_path / "shot.pov").write_text("camera { location <0, 1, -4> look_at 0 } sphere { 0, clock pigment { rgb 1 } }\n")
    job = recipe(farm, "povray", tmp_path)
    assert [leaf.state for leaf in farm.leaves(job.id)] == ["FINISHED"] * 4
    assert {path.name for path in tmp_path.glob("*.png")} == {f"shot_{frame:04d}.png" for frame in range(1, 5)}


SCENE = """
scene = bpy.context.scene
scene.render.engine, scene.cycles.samples, scene.cycles.use_denoising = "CYCLES", 1, False
scene.render.resolution_x, scene.render.resolution_y, scene.render.resolution_percentage = 32, 18, 100
scene.frame_start, scene.frame_end, scene.render.filepath = 1, 4, "//shot_####"
"""


def blender(farm: RealFarm, folder: Path, script: str) -> str:
    """What Blender says while it runs a script, with a home of its own, in the folder."""
    script = f"import bpy\n{SCENE}{script}\nbpy.ops.wm.save_as_mainfile(filepath={str(folder / 'shot.blend')!r})"
    home = {name: str(folder / name) for name in ("HOME", "BLENDER_USER_CONFIG", "BLENDER_USER_SCRIPTS")}
    words = ["blender", "--background", "--factory-startup", "--python-exit-code", "3", "--python-expr", script]
    environment = {**os.environ, **home, "COALITION_SERVER": farm.address, "PYTHONPATH": ""}
    told = subprocess.run(words, env=environment, cwd=folder, capture_output=True, text=True, timeout=100, check=False)
    assert told.returncode == 0, told.stdout + told.stderr
    return told.stdout


def rendered(folder: Path) -> set[tuple[str, tuple[int, int]]]:
    """The pictures there, with their sizes."""
    found = set()
    for path in folder.glob("shot_*.png"):
        with Image.open(path) as picture:
            found.add((path.name, picture.size))
    return found


FOUR = {(f"shot_{frame:04d}.png", (32, 18)) for frame in range(1, 5)}


def test_blender_s_add_on_renders_four_frames_on_the_farm(farm: RealFarm, packed: tuple[Path, Path], tmp_path: Path) -> None:
    if why := packages.ensure(["blender"]):
        pytest.skip(why)
    submit = f"""
bpy.ops.preferences.addon_install(filepath={str(packed[1])!r})
bpy.ops.preferences.addon_enable(module="coalition_farm")
scene.coalition.chunk = 2
bpy.ops.wm.save_as_mainfile(filepath={str(tmp_path / "shot.blend")!r})
assert bpy.ops.coalition.submit() == {{"FINISHED"}}
print("submitted as", scene.coalition.job)
"""
    (id,) = re.findall(r"^submitted as (\d+)$", blender(farm, tmp_path, submit), re.MULTILINE)
    job = farm.finished(int(id), 100)
    assert (job.title, [leaf.state for leaf in farm.leaves(job.id)]) == ("shot Scene", ["FINISHED"] * 2)
    assert rendered(tmp_path) == FOUR


def test_the_recipe_of_blender_renders_its_frames(farm: RealFarm, tmp_path: Path) -> None:
    if why := packages.ensure(["blender"]):
        pytest.skip(why)
    blender(farm, tmp_path, "")
    recipe(farm, "blender", tmp_path)
    assert rendered(tmp_path) == FOUR


def test_the_recipe_of_ffmpeg_makes_a_film_of_frames_that_are_there(farm: RealFarm, tmp_path: Path) -> None:
    if why := packages.ensure(["ffmpeg"]):
        pytest.skip(why)
    draw = "ffmpeg -loglevel error -f lavfi -i testsrc=size=64x48:rate=24 -frames:v 4 shot_%04d.png"
    frames = farm.client.submit(title="frames", command=draw, dir=str(tmp_path))
    recipe(farm, "ffmpeg", tmp_path, {"--depends-on 12": f"--depends-on {frames}"})
    count = ["ffprobe", "-v", "error", "-count_frames", "-show_entries", "stream=codec_name,nb_read_frames", "-of", "csv=p=0"]
    told = subprocess.run([*count, tmp_path / "shot.mp4"], capture_output=True, text=True, timeout=30, check=True)
    assert told.stdout == "h264,4\n"


def test_every_example_is_tried_here() -> None:
    here = Path(__file__).read_text(encoding="utf-8")
    elsewhere = {"raytracer.py", "assemble.py", "README.md", "own_provider.py"}  # the last one by its class
    files = {path.name for path in EXAMPLES.iterdir() if path.is_file()} - elsewhere
    assert {name for name in files if f'"{name}"' not in here} == set()
