"""Fitting what inference uses: values and baselines here, weights of models later."""
