"""MABWiser's policies, played on tables of costs."""

import numpy as np
from mabwiser import mab


def ucb(costs):
    """UCB1. Starts from one play of every arm, which are the first rounds of ours."""
    num_arms = costs.shape[1]

    def run():
        arms = list(range(num_arms))
        policy = mab.MAB(arms[:], mab.LearningPolicy.UCB1(alpha=1))
        policy.fit(arms[:], [-costs[i, i] for i in range(num_arms)])
        for line in costs[num_arms:]:
            arms.append(policy.predict())
            policy.partial_fit([arms[-1]], [-line[arms[-1]]])
        return np.asarray(arms)

    return run


def lin_ucb(costs, contexts):
    """LinUCB at l2_lambda=1: at other values its unplayed arms do not follow the formula."""

    def run():
        arms = [0]
        policy = mab.MAB(list(range(costs.shape[1])), mab.LearningPolicy.LinUCB(alpha=1, l2_lambda=1))
        policy.fit(arms[:], [-costs[0, 0]], contexts[:1])
        for line, context in zip(costs[1:], contexts[1:]):
            arms.append(policy.predict(context[None]))
            policy.partial_fit([arms[-1]], [-line[arms[-1]]], context[None])
        return np.asarray(arms)

    return run
