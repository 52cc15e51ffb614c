"""`python -m worker`"""

from __future__ import annotations

import sys

from core.runtime.main import arguments, run_agent
from worker.agent import WorkerAgent
from worker.children.forkserver_process import fork_ahead
from worker.projects.langgraph_json import project_file


def main(argv: list[str] | None = None) -> int:
    """Runs a worker to its end; returns the exit code."""
    fork_ahead()  # before the settings are read, so that no child process has the secrets
    parser = arguments("worker", "WORKER_ID")
    parser.add_argument(
        "--distributor", dest="DISTRIBUTOR_ID", metavar="ID", help="its distributor (default: distributor-1)"
    )
    parser.add_argument(
        "--coordinator",
        dest="COORDINATOR_ID",
        metavar="ID",
        help="its coordinator (default: coordinator-1)",
    )
    parser.add_argument(
        "--import",
        dest="modules",
        action="append",
        default=[],
        metavar="MODULE",
        help="a module, or ./file.py, that defines tasks; may be given several times",
    )
    parser.add_argument(
        "--langgraph",
        dest="projects",
        action="append",
        default=[],
        metavar="PATH",
        help="a LangGraph project: its langgraph.json, or the folder with it; may be given several times",
    )
    parser.add_argument(
        "--concurrency", dest="WORKER_CONCURRENCY", metavar="N", help="tasks that run at the same time (default: 4)"
    )
    parser.add_argument(
        "--agent-concurrency",
        dest="AGENT_CONCURRENCY",
        metavar="N",
        help="LangGraph graphs that run at the same time, besides those (default: 100)",
    )
    parser.add_argument(
        "--capabilities", default="", metavar="A,B", help="capabilities that tasks may require, besides their type"
    )
    return run_agent(
        parser,
        lambda flags, settings: WorkerAgent(
            settings.worker_id,
            settings.redis,
            settings.a2a_for(settings.worker_id),
            settings.distributor_id,
            settings.coordinator_id,
            settings.agent,
            modules=[*map(project_file, flags.projects), *flags.modules],
            capabilities=[name for name in flags.capabilities.split(",") if name],
        ),
        argv,
    )


if __name__ == "__main__":
    sys.exit(main())
