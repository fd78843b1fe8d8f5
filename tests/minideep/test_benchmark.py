"""The benchmark's rows of the public API: that they run, and what they count."""

import pytest

from kernels.bench import report
from minideep import benchmark

pytestmark = pytest.mark.usefixtures("on_the_cpu")  # where the API is measured
FLOPS = {"conv2d": benchmark.convolutions, "gru": benchmark.recurrent, "rnn": benchmark.recurrent,
         "lstm": benchmark.recurrent, "cnn": lambda _: benchmark.cnn(_, batches=(2,))}


@pytest.mark.parametrize("name", FLOPS)
def test_operations_are_those_that_pytorch_counts(name):
    counter = pytest.importorskip("torch.utils.flop_counter")
    for case, contestants, _, work in FLOPS[name](name):
        contestants["api" if "api" in contestants else "api by hand"]()
        peer = next(function for peer, function in contestants.items() if report.is_peer(peer))
        peer()
        with counter.FlopCounterMode(display=False) as counted:
            peer()
        # oneDNN's LSTM is one operation to it, of which it counts nothing; what a cell adds is 4/3 of
        # a GRU's, besides the dense layer on the last state
        if name == "lstm":
            dense = 3 * 2 * 32 * 128
            gru = next(benchmark.recurrent("gru"))[3]["flops"]
            assert work["flops"] - dense == (gru - dense) * 4 / 3
        else:
            assert counted.get_total_flops() == work["flops"], case


def test_rows_tell_their_speed_and_those_of_memory_too(monkeypatch, capsys):
    monkeypatch.setattr(benchmark, "MUST", {"C": benchmark.MUST["C"]})
    monkeypatch.setattr(benchmark.cases, "CONVOLUTIONS", {
        label: size for label, size in benchmark.cases.CONVOLUTIONS.items() if label[0] == "C"})
    answers = []
    monkeypatch.setattr(benchmark, "show", lambda **answer: answers.append(answer))
    for prefix in ("conv2d", "gru", "max_pool2d"):
        benchmark.main({"prefix": prefix, "threads": 1, "allocator": "default", "seconds": 0})
    rows = [row for answer in answers for row in report.rate(
        {"threads": 1, "allocator": "default", **answer}, {"flops": 50., "stream": 9.})]
    assert len({row["case"] for row in rows}) == 2 + 1 + 2
    for row in rows:
        seconds = row["milliseconds"] / 1e3
        if "pool" in row["case"]:
            assert row["gbytes_per_second"] == pytest.approx(row["bytes"] / seconds / 1e9)
            assert row["percent_of_ceiling"] == pytest.approx(100 * row["gbytes_per_second"] / 9)
        else:
            assert row["gflops_per_second"] == pytest.approx(row["flops"] / seconds / 1e9)
            assert row["percent_of_ceiling"] == pytest.approx(100 * row["gflops_per_second"] / 50)
    assert [row["bytes"] for row in rows if row["name"] == "api" and "bytes" in row] == [
        4 * 8 * 32 * (222**2 + 111**2) * times for times in (1, 2)]
    printed = capsys.readouterr().out
    assert "api gru T 32" in printed and " GFLOP/s" in printed and " GB/s" in printed
