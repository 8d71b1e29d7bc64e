"""bnfold.graph"""
