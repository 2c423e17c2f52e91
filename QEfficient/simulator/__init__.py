"""Cloud AI 100 without the card: a compiler, a runtime and a query tool that behave as the SDK's do.

The code that drives a card runs on it unchanged: :func:`QEfficient.simulator.sdk.install` lays out a folder like the
SDK's, with ``exec/qaic-compile``, ``qaicrt`` and ``qaic-util`` in their places. A program computes with the card's
numerics (fp16, MXFP6, MXINT8) and is held to the card's rules; a real card refuses it.

    sdk  __main__                       the folder
    compiler                            qaic-compile: command_line, configuration, then
      graph_expand  graph_rules         one flat graph, refused where the card's compiler refuses it
      graph_weights  graph_precision    MXFP6 constants, fp16 operations
      graph_indices                     what is out of range
      bindings  program                 inputs and outputs; what is stored
    description  descriptors  container what compiler and runtime share
    qaicrt                              the runtime: executor, inference, slicing, runtime_types
    query                               qaic-util: devices, device_information
    numerics                            number formats
    numeric_report                      the doctor's verdict: numeric_examination, numeric_tallies, graph_runs
"""
