"""
Types of the results that commands write as JSON: one type for each `kind`, and one for each part. Code that prints,
plots or compares results chooses by `kind`. Shares are in percent, except single outcomes, which are from 0 to 1.
"""

from .adapter_rank import RankNumbers, RankRecommendation, RankResults, Spectrum
from .comparison import (
    AtNominal,
    AtWorstCase,
    BestUnregularised,
    ComparedRun,
    ComparisonResults,
    Configuration,
    Difference,
    GradientNorms,
    MatchedPair,
    Price,
    Training,
    Unregularised,
)
from .episodes import EpisodeNumbers, EpisodeResults, EpisodeSettings, Said, Side
from .parts import AttackTally, ByRadius, Evaluation, Settings, SharedDirections, ThreatModelFields, TrustRule
from .tool_calls import CallLists, CallSettings, CallShares, CallTally, ToolCallNumbers, ToolCallResults, ToolCallRun
from .worlds import (
    Membership,
    Ray,
    RobustnessNumbers,
    RobustnessResults,
    RobustnessRun,
    StabilityExamples,
    StabilityNumbers,
    StabilityShares,
    StabilitySteps,
    SuccessLists,
    SuccessShares,
    SuccessTally,
    TokenNumbers,
    TokenOutcome,
    WorldSettings,
)

Run = RobustnessRun | ToolCallRun
EvaluationResults = RobustnessResults | ToolCallResults
# Results that have runs under attack.
Results = EvaluationResults | ComparisonResults

__all__ = [
    "AtNominal",
    "AtWorstCase",
    "AttackTally",
    "BestUnregularised",
    "ByRadius",
    "CallLists",
    "CallSettings",
    "CallShares",
    "CallTally",
    "ComparedRun",
    "ComparisonResults",
    "Configuration",
    "Difference",
    "EpisodeNumbers",
    "EpisodeResults",
    "EpisodeSettings",
    "Evaluation",
    "EvaluationResults",
    "GradientNorms",
    "MatchedPair",
    "Membership",
    "Price",
    "RankNumbers",
    "RankRecommendation",
    "RankResults",
    "Ray",
    "Results",
    "RobustnessNumbers",
    "RobustnessResults",
    "RobustnessRun",
    "Run",
    "Said",
    "Settings",
    "SharedDirections",
    "Side",
    "Spectrum",
    "StabilityExamples",
    "StabilityNumbers",
    "StabilityShares",
    "StabilitySteps",
    "SuccessLists",
    "SuccessShares",
    "SuccessTally",
    "ThreatModelFields",
    "TokenNumbers",
    "TokenOutcome",
    "ToolCallNumbers",
    "ToolCallResults",
    "ToolCallRun",
    "Training",
    "TrustRule",
    "Unregularised",
    "WorldSettings",
]
