"""The real records that tests and benchmarks read from beside the repository."""

from pathlib import Path

CORPUS = Path(__file__).parents[2] / "shared/data/arxiv_corpus.jsonl.gz"
TOPICS = (
    "LoRA image generation",
    "video generation",
    "person tracking",
    "multi-object tracking",
    "NeRF",
    "Gaussian Splatting",
    "vision foundation model",
    "LLM quantization",
    "Mamba",
    "RAG evaluation",
    "3D reconstruction",
    "object detection",
)
"""The fields that ../shared/data/README.md counts papers of."""
