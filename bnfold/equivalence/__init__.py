"""bnfold.equivalence"""
