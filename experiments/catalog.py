"""Every page and scale by its name, as commands call them; a page may also be a file of the user's own."""

import importlib
import importlib.util
import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

from experiments.runner.page import Page
from experiments.scales import SCALES, Scale
from mhmoe.io import UserError


def pages() -> dict[str, Page]:
    """Every file of this folder that declares a PAGE, by its slug."""
    return {slug: module.PAGE for slug, module in _modules().items()}


def find(name: str, task: str = "", heads: Sequence[int] = ()) -> Page:
    """The page whose slug is `name`, or begins with it and is the only one; table1 is not table11.

    Where several begin so, that of the task, or the English one if none is given, and `name` itself before others. A
    name that ends in .py is a file that declares a PAGE. heads: the same comparison for these numbers of heads, of a
    page that varies them. Raises UserError if there is no such page.
    """
    module = _from_file(Path(name)) if name.endswith(".py") else _declared(name, task)
    page: Page = module.PAGE
    if not heads:
        return page
    if min(heads) < 1:
        raise UserError(f"heads={min(heads)} is not allowed; it must be at least 1")
    if not hasattr(module, "for_heads"):
        raise UserError(f"{page.slug} does not vary the number of heads; leave out --heads, or choose table5")
    return module.for_heads(heads)


def check_scale(page: Page, scale: Scale) -> None:
    """Raises UserError if the page is for other scales alone."""
    if page.only and scale.name not in page.only:
        raise UserError(f"scale={scale.name!r} is not one of {page.slug}; choose {' or '.join(page.only)}")


def check_task(page: Page, task: str) -> None:
    """Raises UserError if the page is about another task than the one that is asked for, if one is."""
    if task and task != page.task:
        raise UserError(f"task={task!r} is not that of {page.slug}; choose {page.task}")


def scale_of(name: str) -> Scale:
    if name not in SCALES:
        raise UserError(f"scale={name!r} is not known; choose one of {', '.join(SCALES)}")
    return SCALES[name]


def _modules() -> dict[str, ModuleType]:
    files = sorted(Path(__file__).parent.glob("[a-z]*.py"))
    modules = [importlib.import_module(f"experiments.{file.stem}") for file in files]
    return {module.PAGE.slug: module for module in modules if hasattr(module, "PAGE")}


def _declared(name: str, task: str) -> ModuleType:
    known = _modules()
    whole_words = [slug for slug in known if slug == name or slug.startswith(f"{name}_")]
    matching = whole_words or [slug for slug in known if slug.startswith(name)]
    if len(matching) > 1:
        matching = [slug for slug in matching if known[slug].PAGE.task == (task or "english")] or matching
        matching = [slug for slug in matching if slug == name] or matching
    if len(matching) != 1:
        problem = "not unique" if matching else "not a table or figure"
        raise UserError(f"{name!r} is {problem}; choose one of {', '.join(matching or known)}")
    return known[matching[0]]


def _from_file(path: Path) -> ModuleType:
    """The module of a file, under a name that no other has; the same one each time."""
    name = f"page_at_{path.resolve()}"
    if name not in sys.modules:
        spec = importlib.util.spec_from_file_location(name, path)
        if spec is None or spec.loader is None or not path.is_file():
            raise UserError(f"{path} is not a file of Python; name a table or figure, or a file that declares a PAGE")
        module = sys.modules[name] = importlib.util.module_from_spec(spec)
        sys.path.append(str(path.resolve().parent))  # its neighbours can be imported, as a script's can
        try:
            spec.loader.exec_module(module)
        except Exception as error:
            del sys.modules[name]
            raise UserError(f"{path} cannot be imported: {type(error).__name__}: {error}") from None
    if not isinstance(getattr(sys.modules[name], "PAGE", None), Page):
        raise UserError(f"{path} declares no PAGE; give it one of experiments/kinds, as experiments/table*.py do")
    return sys.modules[name]
