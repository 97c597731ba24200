"""Driving a workspace's runs: starts what is queued, takes up what died, wakes what waits."""
