"""bnfold.onnxfile"""
