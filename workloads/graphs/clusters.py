"""Which entries have dependency graphs of one kind: k-means over the topology and the invocation types of each.

An entry's dependency graph is the union of its call graphs. DGG compares them with the neighbourhood subgraph pairwise
distance kernel; here a graph is a vector of hashed Weisfeiler-Lehman subtree counts (Shervashidze et al., JMLR 12,
2011), whose cost grows with the graphs and not with their pairs. As there, vertices are labelled by what they are and
not by name, edges by how they are called, and the number of clusters is that of the best mean silhouette.
"""

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import replace

import numpy as np
from xxhash import xxh3_64_intdigest

from workloads.arrivals import FloatArray, IntArray
from workloads.graphs.calls import STORES, Vertex
from workloads.graphs.model import EntryModel, GraphModel, Pair
from workloads.seeds import generator

ITERATIONS = 2
BUCKETS = 256
MAX_CLUSTERS = 8
RESTARTS = 5
MAX_ROUNDS = 100
SILHOUETTE_SAMPLE = 500
# Below this mean silhouette there is no substantial structure (Kaufman and Rousseeuw, Finding Groups in Data, 1990).
MIN_SILHOUETTE = 0.25


def cluster_entries(model: GraphModel, seed: int) -> GraphModel:
    """``model`` with every entry's cluster set; cluster 0 is the one of most graphs."""
    features = np.array([graph_features(entry) for entry in model.entries])
    labels = find_clusters(features, generator(seed, "clusters"))
    weight = np.bincount(labels, weights=[entry.num_graphs for entry in model.entries])
    rank = np.argsort(np.argsort(-weight, kind="stable"))
    entries = (
        replace(entry, cluster=int(rank[label])) for entry, label in zip(model.entries, labels.tolist(), strict=True)
    )
    return replace(model, entries=tuple(entries))


def graph_features(entry: EntryModel) -> FloatArray:
    """Hashed counts of the subtree patterns of the entry's dependency graph, scaled to length 1."""
    edges = sorted(entry.times)
    labels = _vertex_labels(entry.root, edges)
    counts = np.zeros(BUCKETS)
    for iteration in range(ITERATIONS + 1):
        if iteration:
            labels = _refined(labels, edges)
        for label in labels.values():
            counts[xxh3_64_intdigest(label.encode(), seed=iteration) % BUCKETS] += 1
    scaled: FloatArray = counts / np.linalg.norm(counts)
    return scaled


def _vertex_labels(root: Vertex, edges: Iterable[Pair]) -> dict[Vertex, str]:
    """What each vertex is: the root, a store by its kind, a service that calls others, or one that calls nobody."""
    callers = {pair.caller for pair in edges}
    labels = {root: "root"}
    for _, (callee, kind) in edges:
        labels.setdefault(callee, kind if kind in STORES else "caller" if callee in callers else "leaf")
    return labels


def _refined(labels: dict[Vertex, str], edges: Iterable[Pair]) -> dict[Vertex, str]:
    """Each label, extended by those around it and how they call each other; hashed to keep it short."""
    around: defaultdict[Vertex, list[str]] = defaultdict(list)
    for caller, (callee, kind) in edges:
        around[caller].append(f">{kind}:{labels[callee]}")
        around[callee].append(f"<{kind}:{labels[caller]}")
    return {
        vertex: f"{xxh3_64_intdigest('|'.join([label, *sorted(around[vertex])]).encode()):x}"
        for vertex, label in labels.items()
    }


def find_clusters(points: FloatArray, rng: np.random.Generator) -> IntArray:
    """A cluster number for each row of ``points``; one cluster where no other number shows structure."""
    best, best_silhouette = np.zeros(len(points), dtype=np.int64), MIN_SILHOUETTE
    num_distinct = len(np.unique(points.round(12), axis=0))
    sample = rng.permutation(len(points))[:SILHOUETTE_SAMPLE]
    for num_clusters in range(2, min(MAX_CLUSTERS, num_distinct, len(points) - 1) + 1):
        labels = k_means(points, num_clusters, rng)
        silhouette = mean_silhouette(points[sample], labels[sample])
        if silhouette > best_silhouette:
            best, best_silhouette = labels, silhouette
    return best


def k_means(points: FloatArray, num_clusters: int, rng: np.random.Generator) -> IntArray:
    """Lloyd's algorithm from k-means++ seeds; the best of several starts. Advances ``rng``."""
    best, best_cost = np.zeros(len(points), dtype=np.int64), np.inf
    for _ in range(RESTARTS):
        centres = _spread_seeds(points, num_clusters, rng)
        for _ in range(MAX_ROUNDS):
            squares = _squared_distances(points, centres)
            labels = squares.argmin(axis=1)
            means = centres.copy()
            for cluster in np.unique(labels):
                means[cluster] = points[labels == cluster].mean(axis=0)
            if np.allclose(means, centres):
                break
            centres = means
        cost = float(squares.min(axis=1).sum())
        if cost < best_cost:
            best, best_cost = labels, cost
    return best


def _spread_seeds(points: FloatArray, num_clusters: int, rng: np.random.Generator) -> FloatArray:
    """k-means++: each next centre is a point drawn in proportion to its squared distance from those chosen."""
    chosen = [int(rng.integers(len(points)))]
    while len(chosen) < num_clusters:
        squares = _squared_distances(points, points[chosen]).min(axis=1)
        chosen.append(int(rng.choice(len(points), p=squares / squares.sum())))
    return points[chosen]


def mean_silhouette(points: FloatArray, labels: IntArray) -> float:
    """Mean of (b - a) / max(a, b): a is a point's mean distance to its own cluster, b to the nearest other one. A point
    alone in its cluster counts 0. -1 where there are fewer than two clusters."""
    names = np.unique(labels)
    if len(names) < 2:
        return -1.0
    distances = np.sqrt(_squared_distances(points, points))
    sizes = np.array([(labels == name).sum() for name in names])
    sums = np.stack([distances[:, labels == name].sum(axis=1) for name in names], axis=1)
    own = np.searchsorted(names, labels)
    rows = np.arange(len(points))
    within = sums[rows, own] / np.maximum(sizes[own] - 1, 1)
    means = sums / sizes
    means[rows, own] = np.inf
    nearest = means.min(axis=1)
    scores = np.where(sizes[own] > 1, (nearest - within) / np.maximum(np.maximum(nearest, within), 1e-12), 0.0)
    return float(scores.mean())


def _squared_distances(left: FloatArray, right: FloatArray) -> FloatArray:
    """Shape [len(left), len(right)]; rounding below 0 is cut off."""
    squares: FloatArray = (left**2).sum(axis=1)[:, None] + (right**2).sum(axis=1)[None, :] - 2 * left @ right.T
    return np.maximum(squares, 0.0)
