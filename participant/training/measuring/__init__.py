"""Measuring an adapter on the owner's own data, in place of training it."""
