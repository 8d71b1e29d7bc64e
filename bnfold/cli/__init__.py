"""bnfold.cli"""
