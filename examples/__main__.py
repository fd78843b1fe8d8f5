"""`python -m examples` lists the course; `run 05` runs a lesson; `build` makes its pages."""

import runpy
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

import course  # noqa: E402
import typer  # noqa: E402

from tracker.files import check_output  # noqa: E402

app = typer.Typer(add_completion=False, help=__doc__)


@app.callback(invoke_without_command=True)
def list_lessons(context: typer.Context):
    if context.invoked_subcommand is None:
        for path in course.scripts().values():
            print(f"{path.name:<36} {course.title(path)}")
        print("\nRun one:       python -m examples run 05, or python examples/05_....py"
              "\nAs a notebook: pip install jupytext notebook; jupytext --to notebook examples/05_*.py"
              "\nAs pages:      make course")


@app.command()
def run(number: str):
    """Run one lesson, its number 01 to 14; figures go to course-output/."""
    runpy.run_path(str(course.scripts()[_lesson(number)]), run_name="__main__")


@app.command()
def build(folder: str = "course-output", only: str = ""):
    """Run the lessons and write their pages and index.html to FOLDER. --only 01,02 for some."""
    numbers = [_lesson(number) for number in only.split(",")] if only else None
    try:
        check_output(folder, folder=True)
    except OSError as error:
        raise typer.BadParameter(str(error)) from error
    print(course.build(folder, numbers))


def _lesson(number):
    """A lesson's number as course.scripts() has it."""
    key = number.strip().zfill(2)
    if key not in course.scripts():
        raise typer.BadParameter(f"there is no lesson {number!r}; there are "
                                 f"{', '.join(course.scripts())}")
    return key


if __name__ == "__main__":
    app()
