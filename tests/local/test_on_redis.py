"""A hierarchy in one process that keeps everything in Redis: its work outlives it."""

from __future__ import annotations

import tests.local.tasks  # noqa: F401  # it registers them
from core.config.settings import A2ASecrets, RedisConfig
from core.local.hierarchy import LocalHierarchy
from core.tasks import Task

SECRETS = A2ASecrets(token_secret="a secret of this test, long enough")


def test_what_a_hierarchy_has_done_is_there_for_the_next_one(redis_config: RedisConfig) -> None:
    with LocalHierarchy(workers=1, redis_config=redis_config, a2a_config=SECRETS) as client:
        done = client.submit(Task(task_type="local.tree", payload=[[1, 2], [3]]))
        asking = client.submit(Task(task_type="local.story", payload={"title": "tide"}))
        assert client.value(done, 60) == 6
    hierarchy = LocalHierarchy(workers=1, redis_config=redis_config, a2a_config=SECRETS)
    with hierarchy as client:
        [question] = hierarchy.questions(60)
        assert question.task_id == asking
        client.answer(asking, question.interrupt_id, "yes")
        assert client.value(asking, 60)["approved"] == "yes"
        assert client.value(done, 60) == 6
