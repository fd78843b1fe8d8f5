"""The registry: which rung is picked, what explain says, and what can be forced."""

import threading

import numpy as np
import pytest
import strict_array

import kernels
from kernels import jit
from kernels.ladder import ENVIRONMENT, Ladder, explain, rung, use

strict_array.install()
IMAGE, KERNEL = np.ones((1, 4, 4, 2)), np.ones((3, 3, 2, 2))


@pytest.fixture
def scale():
    """A ladder of four rungs, which return their names."""

    def scale(x, factor=2):
        return x, float(factor)

    op = Ladder(scale)

    @rung(op, device="cpu", why="the formula")
    def formula(x, factor):
        return "formula", factor

    @rung(op, device="any", why="vectors")
    def array(x, factor):
        return "array", factor

    @rung(op, device="cpu", why="short vectors")
    def short(x, factor):
        return "short", factor

    @short.needs
    def _(x, factor):
        return len(x) < 3 or "at most two numbers"

    @rung(op, device="cuda", why="many threads")
    def cuda(x, factor):
        return "cuda", factor

    return op


def test_the_highest_eligible_rung_runs(scale):
    assert scale(np.ones(3)) == ("array", 2.0)
    assert scale(np.ones(2), factor=5) == ("short", 5.0)
    assert scale(strict_array.to_strict(np.ones(2))) == ("array", 2.0)


def test_explain_names_the_chosen_and_every_other(scale):
    told = explain(scale, np.ones(3))
    assert told.chosen == "array"
    assert told.refused == {
        "cuda": "runs on cuda, the arrays are on cpu",
        "short": "at most two numbers",
        "formula": "lower on the ladder",
    }
    for text in ("scale on cpu", "> array", "vectors", *told.refused.values()):
        assert text in str(told)


def test_explain_takes_a_name_and_computes_nothing():
    told = kernels.explain("conv2d", IMAGE, KERNEL, padding="same")
    assert told.chosen == "im2col" and {"formula", "shifts"} <= set(told.refused)
    depthwise = explain("conv2d", IMAGE, np.ones((3, 3, 1, 2)), groups=2).chosen
    assert depthwise == ("shifts" if jit.problem() else "depthwise")
    with pytest.raises(ValueError, match="unknown op 'conv3d'; the ops are .*conv2d"):
        kernels.explain("conv3d", IMAGE, KERNEL)
    with pytest.raises(ValueError, match="channels"):
        kernels.explain("conv2d", np.ones((1, 4, 4, 3)), KERNEL)


def test_use_forces_a_rung_nests_and_ends():
    with use(conv2d="formula", max_pool2d="formula"):
        assert explain("conv2d", IMAGE, KERNEL).chosen == "formula"
        with use(conv2d="im2col"):
            told = explain("conv2d", IMAGE, KERNEL)
            assert told.chosen == "im2col" and told.refused["formula"] == "im2col is forced"
            assert explain("max_pool2d", IMAGE, 2).chosen == "formula"
        assert explain("conv2d", IMAGE, KERNEL).chosen == "formula"
    assert explain("conv2d", IMAGE, KERNEL).chosen == "im2col"


def test_use_ends_with_an_exception_too():
    with pytest.raises(KeyError), use(conv2d="formula"):
        raise KeyError
    assert explain("conv2d", IMAGE, KERNEL).chosen == "im2col"


def test_use_decorates():
    @use(conv2d="formula")
    def chosen():
        return explain("conv2d", IMAGE, KERNEL).chosen

    assert [chosen(), chosen()] == ["formula", "formula"]
    assert explain("conv2d", IMAGE, KERNEL).chosen == "im2col"


def test_use_holds_in_its_own_thread_only():
    seen = []
    with use(conv2d="formula"):
        thread = threading.Thread(
            target=lambda: seen.append(explain("conv2d", IMAGE, KERNEL).chosen)
        )
        thread.start()
        thread.join()
    assert seen == ["im2col"]


def test_the_environment_forces_a_rung_and_use_overrides_it(kernels_setting, monkeypatch):
    kernels_setting(" conv2d = formula ,lstm=formula,")
    assert explain("conv2d", IMAGE, KERNEL).chosen == "formula"
    with use(conv2d="im2col"):
        assert explain("conv2d", IMAGE, KERNEL).chosen == "im2col"
    monkeypatch.setenv(ENVIRONMENT, "conv2d=shifts")  # too late
    assert explain("conv2d", IMAGE, KERNEL).chosen == "formula"


def test_a_forced_rung_runs_although_another_is_remembered(kernels_setting, monkeypatch):
    ran = []
    formula = kernels.conv2d.rungs["formula"]
    monkeypatch.setattr(formula, "function", lambda *args: ran.append(args))
    kernels.conv2d(IMAGE, KERNEL)
    assert not ran
    with use(conv2d="formula"):
        kernels.conv2d(IMAGE, KERNEL)
    assert len(ran) == 1
    kernels_setting("conv2d=formula")
    kernels.conv2d(IMAGE, KERNEL)
    assert len(ran) == 2


@pytest.mark.parametrize(
    "setting, message",
    [
        ("conv2d=fastest", "conv2d has no rung 'fastest'; its rungs are formula, im2col, shifts"),
        ("conv9d=formula", "unknown op 'conv9d'"),
        ("formula", "not of the form op=rung"),
    ],
)
def test_a_wrong_environment_is_an_error(kernels_setting, setting, message):
    kernels_setting(setting)
    other = np.ones((2, 2))
    with use(matmul="formula"):  # which the variable does not decide
        for call in (lambda: kernels.conv2d(IMAGE, KERNEL), lambda: kernels.softmax(other),
                     lambda: kernels.matmul(other, other), lambda: explain("matmul", other, other)):
            with pytest.raises(ValueError, match=f"{ENVIRONMENT}.*{message}"):
                call()


def test_unknown_choices_are_errors_that_name_the_possible_ones():
    with pytest.raises(ValueError, match="unknown op 'conv9d'; the ops are .*conv2d"):
        use(conv9d="formula")
    with pytest.raises(ValueError, match="rungs are formula, im2col, shifts"):
        use(conv2d="fastest")


def test_a_forced_rung_that_cannot_run_is_an_error():
    message = r"'shifts' was asked for but cannot run here: depthwise.*eligible here: .*im2col"
    with use(conv2d="shifts"), pytest.raises(ValueError, match=message):
        kernels.conv2d(IMAGE, KERNEL)
    x, w = strict_array.to_strict(IMAGE), strict_array.to_strict(KERNEL)
    message = "runs on cpu, the arrays are on strict; eligible here: im2col"
    with use(conv2d="formula"), pytest.raises(ValueError, match=message):
        kernels.conv2d(x, w)
    with use(conv2d="shifts"):
        told = explain("conv2d", IMAGE, KERNEL)
    assert told.chosen is None and told.refused["shifts"].startswith("depthwise")


def test_no_rung_at_all(scale):
    del scale.rungs["array"]
    with pytest.raises(ValueError, match="scale: no rung can run these arguments .*runs on cpu"):
        scale(strict_array.to_strict(np.ones(2)))


def test_arrays_of_two_devices_are_refused():
    with pytest.raises(TypeError, match=r"cpu, strict.*\.to\('cpu'\)"):
        kernels.conv2d(IMAGE, strict_array.to_strict(KERNEL))


def test_every_ladder_starts_with_its_formula_and_says_why():
    for name, op in kernels.ladders().items():
        assert list(op.rungs)[0] == "formula" and len(op.rungs) >= 2, name
        assert getattr(kernels, name) is op and op.__doc__, name
        assert all(step.why for step in op.rungs.values()), name


def test_unknown_device_of_a_rung(scale):
    with pytest.raises(ValueError, match="'any', 'cpu' or 'cuda'"):
        rung(scale, device="gpu", why="")


def test_a_remembered_pick_is_forgotten_when_the_ladder_changes(scale):
    x = np.ones(3)
    assert scale(x) == scale(x) == ("array", 2.0)

    @rung(scale, device="cpu", why="newer")
    def newest(x, factor):
        return "newest", factor

    assert scale(x) == ("newest", 2.0)

    @newest.needs
    def _(x, factor):
        return "never"

    assert scale(x) == ("array", 2.0)
    del scale.rungs["array"]
    assert scale(x) == ("formula", 2.0)


def test_arguments_that_look_alike_share_a_pick_and_others_do_not():
    asked = []

    def double(x, factor):
        return x, factor

    op = Ladder(double)

    @rung(op, device="cpu", why="the formula")
    def formula(x, factor):
        return "formula"

    @rung(op, device="cpu", why="in place")
    def in_place(x, factor):
        return "in place"

    @in_place.needs
    def _(x, factor):
        asked.append(factor)
        return x.flags.writeable or "not to be written"

    x = np.ones(3)
    for factor in (1.0, 2.0, np.float32(3)):  # a learning rate is another in every step
        assert op(x, factor) == "in place"
    assert asked == [1.0]
    read_only = x.copy()
    read_only.flags.writeable = False
    assert op(read_only, 1.0) == "formula"
    assert op(read_only.view(Subclass), 1.0) == "formula"
    assert op(x.view(Subclass), 1.0) == "in place"
    assert op(read_only.view(Subclass), 2.0) == "formula"


class Subclass(np.ndarray):
    """As a memory map is: an array of another type."""
