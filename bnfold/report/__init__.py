"""bnfold.report"""
