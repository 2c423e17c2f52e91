"""Cloud AI 100 without the card: a compiler, a runtime and a query tool that behave as the SDK's do.

The code that drives a card runs on it unchanged: :func:`QEfficient.simulator.sdk.install` lays out a folder like the
SDK's, with ``exec/qaic-compile``, ``qaicrt`` and ``qaic-util`` in their places. A program computes with the card's
numerics (fp16, MXFP6, MXINT8) and is held to the card's rules; a real card refuses it.

    sdk  __main__                       the folder
    compiler/                           qaic-compile: driver, command_line, configuration, then
      graph_rules                       refused where the card's compiler refuses it
      bindings  program                 inputs and outputs; what is stored
    passes/                             one flat graph; MXFP6 constants; fp16 operations; what is out of range
    runtime/                            qaicrt: executor, inference, slicing; qaic-util: query, devices
    examination/                        what the number formats do to a model, node by node
    description  container              what compiler and runtime share
    numerics                            number formats
"""
