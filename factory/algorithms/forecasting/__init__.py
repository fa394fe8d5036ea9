"""Forecasts of many related series; imported by the worker only (torch, numpy, pandas)."""
