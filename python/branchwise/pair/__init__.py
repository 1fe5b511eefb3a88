"""A policy and a judge as one: trees that both know, and when a pass of the judge is worth its time."""
