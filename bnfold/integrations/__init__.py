"""bnfold as a part of other tools: a pass of onnx-ir, a pass of Olive. Each module imports its tool."""
