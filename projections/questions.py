"""Questions that people ask of trainings, worked out in SQL; and the page that documents the views with them."""

from __future__ import annotations

from events.client import ServerAddress

from . import views
from .replica import Replica

QUESTIONS: dict[str, str] = {
    "How far is every training, and how good?": """
SELECT name, status, step, total_steps, round(fvu, 4) AS fvu, round(l0, 1) AS l0, dead_latents
FROM trainings WHERE NOT deleted ORDER BY created_at DESC""",
    "How do dead latents grow, by learning rate?": """
SELECT trainings.learning_rate, metrics.step // 1000 * 1000 AS from_step,
    avg(metrics.dead_latents / latent_dim) AS share
FROM metrics JOIN trainings USING (training) GROUP BY ALL ORDER BY ALL""",
    "When did each training first come within 10 % of its target L0?": """
SELECT name, sae, min(metrics.step) AS step, min(timestamp) - any_value(started_at) AS after
FROM metrics JOIN trainings USING (training)
WHERE abs(l0_sparsity / target_l0 - 1) < 0.1 GROUP BY name, sae ORDER BY ALL""",
    "How many steps were lost to interruptions?": """
SELECT training, count(*) AS lost
FROM steps ANTI JOIN metrics USING (training, position) GROUP BY training ORDER BY lost DESC""",
    "How fast is each device?": """
SELECT host, device_name, count(*) AS steps, round(median(metrics.tokens_per_second)) AS tokens_per_second
FROM metrics JOIN trainings USING (training) GROUP BY host, device_name ORDER BY tokens_per_second DESC""",
    "Who changed a template, when, and how?": """
SELECT timestamp, actor, type, templates.name, data
FROM activity JOIN templates USING (template)
WHERE starts_with(type, 'Template') ORDER BY activity.position""",
    "Which trainings would a rule 'dead latents above 30 % for 500 steps' have stopped, and at which step?": """
WITH dead AS (
    SELECT training, sae, metrics.step, metrics.dead_latents > 0.3 * latent_dim AS many
    FROM metrics JOIN trainings USING (training)
), runs AS (
    SELECT *, count(*) FILTER (NOT many) OVER (PARTITION BY training, sae ORDER BY step) AS run FROM dead
)
SELECT training, sae, min(step) + 499 AS stopped_at
FROM runs WHERE many GROUP BY training, sae, run HAVING count(*) >= 500 ORDER BY ALL""",
    "What did each architecture reach at about the same L0?": """
SELECT architecture, round(l0 / 10) * 10 AS about_l0, min(fvu) AS best_fvu, count(*) AS trainings
FROM trainings WHERE status = 'completed' GROUP BY ALL ORDER BY ALL""",
    "Which training has the best evaluation, of which checkpoint?": """
SELECT training, step, avg(evaluations.fvu) AS fvu, avg(loss_recovered) AS loss_recovered
FROM evaluations SEMI JOIN checkpoints USING (training, step)
WHERE NOT diverged
GROUP BY training, step ORDER BY fvu LIMIT 10""",
    "Where did the loss jump?": """
SELECT training, sae, step, loss, loss / before AS times
FROM (SELECT *, lag(loss) OVER (PARTITION BY training, sae ORDER BY step) AS before FROM metrics)
WHERE loss > 2 * before ORDER BY times DESC LIMIT 20""",
    "Where is the gradient not a number?": """
SELECT training, sae, min(step) AS first_step, count(*) AS steps
FROM metrics WHERE NOT isfinite(grad_norm) OR NOT isfinite(loss) GROUP BY training, sae ORDER BY ALL""",
    "What does a training look like in a hundred points?": """
WITH training AS (FROM metrics WHERE training = $training), last AS (SELECT max(step) AS step FROM training)
SELECT sae, min(training.step) AS step, min(loss) AS low, max(loss) AS high
FROM training, last GROUP BY sae, (training.step - 1) * 100 // last.step ORDER BY ALL""",
    "How much disk do checkpoints take, by training?": """
SELECT training, name, count(*) AS checkpoints, sum(size) / 1e9 AS gigabytes
FROM checkpoints JOIN trainings USING (training) GROUP BY ALL ORDER BY gigabytes DESC""",
    "Which errors and warnings were there, and how often?": """
SELECT level, logger, message, count(*) AS times, max(timestamp) AS last
FROM logs WHERE severity >= 30 GROUP BY ALL ORDER BY times DESC LIMIT 50""",
    "How long did trainings wait for a device?": """
SELECT name, started_at - created_at AS waited FROM trainings WHERE started_at IS NOT NULL ORDER BY waited DESC""",
    "How many tokens were trained on each day?": """
SELECT date_trunc('day', timestamp) AS day, sum(new)::BIGINT AS tokens
FROM (
    SELECT timestamp, tokens - lag(tokens, 1, 0) OVER (PARTITION BY training ORDER BY step) AS new
    FROM metrics WHERE sae = 0
)
GROUP BY day ORDER BY day""",
    "Which fields differ between two trainings?": """
WITH fields AS (
    SELECT training, unnest(json_keys(config)) AS field, config FROM trainings WHERE training IN ($one, $other)
)
SELECT field, max(json_extract(config, field)) FILTER (training = $one) AS one,
    max(json_extract(config, field)) FILTER (training = $other) AS other
FROM fields GROUP BY field HAVING one IS DISTINCT FROM other ORDER BY field""",
    "Does a higher L0 mean a lower FVU here?": """
SELECT training, sae, round(corr(l0, fvu), 3) AS correlation, count(*) AS steps
FROM metrics GROUP BY training, sae HAVING count(*) > 1 ORDER BY correlation""",
    "How long did each attempt last until it ended or the next one began?": """
SELECT stream, occurred_at AS started, lead(occurred_at) OVER one - occurred_at AS lasted, lead(type) OVER one AS end
FROM events
WHERE type IN ('TrainingStarted', 'TrainingPaused', 'TrainingCompleted', 'TrainingFailed', 'TrainingStopped')
WINDOW one AS (PARTITION BY stream ORDER BY position) QUALIFY type = 'TrainingStarted' ORDER BY started""",
    "What does the log hold, by type?": """
SELECT type, count(*) AS events, max(recorded_at) AS last FROM events GROUP BY type ORDER BY events DESC""",
}
"""What is asked → the statement; `$name` is a parameter."""

_INTRODUCTION = """# The log in SQL
Every view below can be asked with `saestudio sql "…"`, with `POST /api/v1/sql`, in a notebook with
`projections.replica.connect(URL)`, and in a file of your own that `saestudio replicate --db FILE` brings up to date.
All of them are replicas of the log: they follow it, and an answer is true at the position that it names. The tables
that the views are made of lie in the schema `raw`; they may change with any version, the views only gain columns.

Times are in UTC. `SELECT * FROM replica` says which log it is and how far it reaches.

"""


def page() -> str:
    """The documentation of the views, from the catalogue of a database that has them, and of the questions."""
    replica = Replica(ServerAddress("http://127.0.0.1:1"))
    try:
        described = views.describe(replica.cursor())
    finally:
        replica.close()
    asked = "".join(f"### {title}\n```sql\n{statement.strip()}\n```\n\n" for title, statement in QUESTIONS.items())
    return f"{_INTRODUCTION}{views.markdown(described)}\n## Questions\n{asked}".rstrip() + "\n"
