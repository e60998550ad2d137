"""What stands around the code: the image and the workflow. They do what everybody's commands do."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2]
DOCKERFILE = (ROOT / "Dockerfile").read_text(encoding="utf-8")


def test_the_image_is_made_by_the_steps_that_check_takes_from_a_clean_clone():
    steps = re.findall(r"^RUN (.*)$", DOCKERFILE, flags=re.MULTILINE)
    assert len(steps) == 2 and steps[0].startswith("apt-get update && apt-get install") and steps[1] == "make setup"
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    assert re.search(r"^setup: ", makefile, flags=re.MULTILINE)
    assert re.search(r"^check: .*\n\t@\$\(MAKE\) [^\n]* setup ", makefile, flags=re.MULTILINE)
    kept_out = (ROOT / ".dockerignore").read_text(encoding="utf-8").split()
    assert {".git", ".venv", ".cache"} <= set(kept_out)  # nothing of this machine goes in


def test_the_image_has_a_python_that_the_package_allows():
    (version,) = re.findall(r"^FROM python:([\d.]+)-slim$", DOCKERFILE, flags=re.MULTILINE)
    assert tuple(map(int, version.split("."))) >= (3, 11)


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("docker") is None, reason="no docker here")
def test_the_image_builds_and_lists_the_commands():
    built = subprocess.run(["docker", "build", "--quiet", "."], cwd=ROOT, capture_output=True, text=True, check=True)
    told = subprocess.run(["docker", "run", "--rm", built.stdout.strip()], capture_output=True, text=True, check=True)
    assert "make check" in told.stdout


def test_the_workflow_runs_the_check_of_the_readme_and_may_write_nothing():
    workflow = yaml.safe_load((ROOT / ".github" / "workflows" / "check.yml").read_text(encoding="utf-8"))
    (job,) = workflow["jobs"].values()
    assert [step["run"] for step in job["steps"] if "run" in step] == ["make check"]
    assert "make check" in (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    assert workflow["permissions"] == {"contents": "read"}
