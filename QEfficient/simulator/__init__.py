"""Cloud AI 100 without the card: a compiler, a runtime and a query tool that behave like the SDK's.

The code that drives a card runs on it unchanged: :func:`QEfficient.simulator.sdk.install` lays out a folder like the
SDK's, with ``exec/qaic-compile``, ``qaicrt`` and ``qaic-util`` in their places. A program computes with the card's
numerics (fp16, MXFP6, MXINT8) and obeys the card's rules; a real card rejects it.

    sdk  __main__                       the folder
    compiler/                           qaic-compile: driver, command_line, configuration, then
      graph_rules                       rejects what the card's compiler rejects
      bindings  program                 inputs and outputs; the stored program
    passes/                             one flat graph; MXFP6 constants; fp16 operations; indices out of range
    runtime/                            qaicrt: executor, inference, slicing; qaic-util: query, devices
    examination/                        effect of the number formats on a model, node by node
    description  container              shared by compiler and runtime
    numerics                            number formats
"""
