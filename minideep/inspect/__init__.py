"""The engine explains itself.

    steps(loss)             the way back, one op at a time
    trace()                 inside: each op's layer and source line are noted, for all below
    graph(loss)             a picture of the graph: DOT, or SVG without Graphviz
    memory(loss)            who keeps what for the way back
    profile()               time, FLOP/s and bytes/s by op, layer and line; a Chrome trace
    check_gradients()       inside: every op against finite differences, in the user's own model
    record(model)           inside: the activations of every layer
    gradient_flow, gates    gradient norms and gate values over the time steps of a recurrent layer
    plot_*                  the figures (matplotlib)

    from minideep import inspect
"""

from minideep.inspect.check import check_gradients
from minideep.inspect.graph import Graph, graph
from minideep.inspect.record import gates, gradient_flow, loss_landscape, record
from minideep.inspect.plots import (plot_activations, plot_filters, plot_gates, plot_gradient_flow,
                                    plot_histograms, plot_loss_landscape, style)
from minideep.inspect.steps import Step, steps
from minideep.inspect.trace import Profile, memory, profile, trace

__all__ = """Graph Profile Step check_gradients gates gradient_flow graph loss_landscape memory
plot_activations plot_filters plot_gates plot_gradient_flow plot_histograms plot_loss_landscape
profile record steps style trace""".split()
