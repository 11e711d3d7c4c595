"""LLMC, ModelTC's LightCompress: its YAML for video models."""
