"""The first tables, and the owner of the machine."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None

MOMENT = sa.DateTime(timezone=True)


def _numbered(name: str, *columns: sa.schema.SchemaItem) -> None:
    op.create_table(
        name,
        sa.Column("id", sa.Integer, nullable=False),
        *columns,
        sa.PrimaryKeyConstraint("id", name=f"pk_{name}"),
        sqlite_autoincrement=True,
    )


def _owned(table: str, column: str) -> sa.ForeignKeyConstraint:
    return sa.ForeignKeyConstraint([column], ["users.id"], name=f"fk_{table}_{column}", ondelete="CASCADE")


def upgrade() -> None:
    _numbered(
        "users",
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("scopes", sa.JSON, nullable=False),
        sa.Column("quota", sa.BigInteger),
        sa.Column("used", sa.BigInteger, nullable=False),
        sa.Column("used_on", sa.Date),
        sa.Column("default_adapter", sa.Text),
        sa.Column("created", MOMENT, nullable=False),
        sa.UniqueConstraint("name", name="uq_users_name"),
    )
    _numbered(
        "tokens",
        sa.Column("user_id", sa.Integer, nullable=False),
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("digest", sa.Text, nullable=False),
        sa.Column("hint", sa.Text, nullable=False),
        sa.Column("scopes", sa.JSON, nullable=False),
        sa.Column("created", MOMENT, nullable=False),
        sa.Column("expires", MOMENT),
        sa.Column("last_used", MOMENT),
        _owned("tokens", "user_id"),
        sa.UniqueConstraint("digest", name="uq_tokens_digest"),
    )
    op.create_index("ix_tokens_user_id", "tokens", ["user_id"])
    _numbered(
        "conversations",
        sa.Column("user_id", sa.Integer, nullable=False),
        sa.Column("title", sa.Text, nullable=False),
        sa.Column("system", sa.Text, nullable=False),
        sa.Column("settings", sa.JSON, nullable=False),
        sa.Column("head", sa.Integer),
        sa.Column("created", MOMENT, nullable=False),
        sa.Column("updated", MOMENT, nullable=False),
        _owned("conversations", "user_id"),
    )
    op.create_index("ix_conversations_user_id", "conversations", ["user_id"])
    _numbered(
        "messages",
        sa.Column("conversation_id", sa.Integer, nullable=False),
        sa.Column("parent_id", sa.Integer),
        sa.Column("role", sa.Text, nullable=False),
        sa.Column("content", sa.Text, nullable=False),
        sa.Column("provenance", sa.JSON, nullable=False),
        sa.Column("created", MOMENT, nullable=False),
        sa.ForeignKeyConstraint(
            ["conversation_id"], ["conversations.id"], name="fk_messages_conversation_id", ondelete="CASCADE"
        ),
        sa.ForeignKeyConstraint(
            ["conversation_id", "parent_id"],
            ["messages.conversation_id", "messages.id"],
            name="fk_messages_conversation_id_parent_id",
        ),
        sa.UniqueConstraint("conversation_id", "id", name="uq_messages_conversation_id_id"),
    )
    op.create_index("ix_messages_conversation_id_parent_id", "messages", ["conversation_id", "parent_id"])
    op.create_table(
        "adapters",
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("folder", sa.Text, nullable=False),
        sa.Column("base", sa.Text, nullable=False),
        sa.Column("content_id", sa.Text, nullable=False),
        sa.Column("owner", sa.Integer),
        sa.Column("created", MOMENT, nullable=False),
        _owned("adapters", "owner"),
        sa.PrimaryKeyConstraint("name", name="pk_adapters"),
    )
    op.create_index("ix_adapters_owner", "adapters", ["owner"])
    op.create_table(
        "settings",
        sa.Column("key", sa.Text, nullable=False),
        sa.Column("value", sa.JSON, nullable=False),
        sa.PrimaryKeyConstraint("key", name="pk_settings"),
    )
    op.execute(
        "INSERT INTO users (name, scopes, used, created)"
        """ VALUES ('admin', '["chat", "teach", "admin"]', 0, CURRENT_TIMESTAMP)"""
    )
