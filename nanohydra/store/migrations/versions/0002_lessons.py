"""Lessons, their facts and passages, the history, trials."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"

MOMENT = sa.DateTime(timezone=True)


def _numbered(name: str, *columns: sa.schema.SchemaItem) -> None:
    op.create_table(
        name,
        sa.Column("id", sa.Integer, nullable=False),
        *columns,
        sa.PrimaryKeyConstraint("id", name=f"pk_{name}"),
        sqlite_autoincrement=True,
    )


def _part_of(table: str, column: str, whole: str, ondelete: str = "CASCADE") -> sa.ForeignKeyConstraint:
    return sa.ForeignKeyConstraint([column], [f"{whole}.id"], name=f"fk_{table}_{column}", ondelete=ondelete)


def upgrade() -> None:
    _numbered(
        "lessons",
        sa.Column("user_id", sa.Integer, nullable=False),
        sa.Column("key", sa.Text),
        sa.Column("digest", sa.Text, nullable=False),
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("kind", sa.Text, nullable=False),
        sa.Column("base_id", sa.Text, nullable=False),
        sa.Column("base_name", sa.Text, nullable=False),
        sa.Column("state", sa.Text, nullable=False),
        sa.Column("settings", sa.JSON, nullable=False),
        sa.Column("progress", sa.JSON, nullable=False),
        sa.Column("receipt", sa.JSON),
        sa.Column("error", sa.Text),
        sa.Column("adapter", sa.Text),
        sa.Column("shared", sa.Boolean, nullable=False),
        sa.Column("attempt", sa.Integer, nullable=False),
        sa.Column("cancel", sa.Boolean, nullable=False),
        sa.Column("worker", sa.Text),
        sa.Column("lease", MOMENT),
        sa.Column("created", MOMENT, nullable=False),
        sa.Column("started", MOMENT),
        sa.Column("finished", MOMENT),
        _part_of("lessons", "user_id", "users"),
        sa.UniqueConstraint("user_id", "key", name="uq_lessons_user_id_key"),
    )
    _numbered(
        "lesson_passages",
        sa.Column("lesson_id", sa.Integer, nullable=False),
        sa.Column("number", sa.Integer, nullable=False),
        sa.Column("text", sa.Text, nullable=False),
        sa.Column("source", sa.Text, nullable=False),
        sa.Column("vector", sa.LargeBinary),
        _part_of("lesson_passages", "lesson_id", "lessons"),
        sa.UniqueConstraint("lesson_id", "number", name="uq_lesson_passages_lesson_id_number"),
    )
    _numbered(
        "lesson_facts",
        sa.Column("lesson_id", sa.Integer, nullable=False),
        sa.Column("passage_id", sa.Integer),
        *(sa.Column(name, sa.Text, nullable=False) for name in ("key", "subject", "attribute", "value")),
        *(sa.Column(name, sa.Text, nullable=False) for name in ("question", "answer")),
        sa.Column("valid_from", MOMENT, nullable=False),
        sa.Column("valid_until", MOMENT),
        sa.Column("superseded_by", sa.Integer),
        sa.Column("forgotten", sa.Boolean, nullable=False),
        sa.Column("card", sa.JSON),
        sa.Column("due", MOMENT),
        sa.Column("vector", sa.LargeBinary),
        _part_of("lesson_facts", "lesson_id", "lessons"),
        _part_of("lesson_facts", "passage_id", "lesson_passages", "SET NULL"),
    )
    _numbered(
        "history",
        sa.Column("at", MOMENT, nullable=False),
        sa.Column("user_id", sa.Integer, nullable=False),
        sa.Column("kind", sa.Text, nullable=False),
        sa.Column("lesson_id", sa.Integer),
        sa.Column("detail", sa.JSON, nullable=False),
        _part_of("history", "user_id", "users"),
        _part_of("history", "lesson_id", "lessons"),
    )
    _numbered(
        "trials",
        sa.Column("user_id", sa.Integer, nullable=False),
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("a", sa.Text),
        sa.Column("b", sa.Text),
        sa.Column("created", MOMENT, nullable=False),
        sa.Column("ended", MOMENT),
        sa.Column("verdict", sa.JSON),
        _part_of("trials", "user_id", "users"),
        sa.UniqueConstraint("user_id", "name", name="uq_trials_user_id_name"),
    )
    op.create_table(
        "votes",
        sa.Column("trial_id", sa.Integer, nullable=False),
        sa.Column("unit", sa.Text, nullable=False),
        sa.Column("arm", sa.Text, nullable=False),
        sa.Column("score", sa.Double, nullable=False),
        sa.Column("at", MOMENT, nullable=False),
        _part_of("votes", "trial_id", "trials"),
        sa.PrimaryKeyConstraint("trial_id", "unit", name="pk_votes"),
    )
    for table, columns in (
        ("lessons", ["user_id"]),
        ("lessons", ["state"]),
        ("lessons", ["shared"]),
        ("lesson_facts", ["lesson_id"]),
        ("lesson_facts", ["passage_id"]),
        ("lesson_facts", ["superseded_by"]),
        ("lesson_facts", ["due"]),
        ("history", ["user_id", "id"]),
        ("history", ["lesson_id"]),
    ):
        op.create_index(f"ix_{table}_{'_'.join(columns)}", table, columns)
