"""The work on networks: made ready, recorded, calibrated block by block, their weights lent where they do not fit."""
