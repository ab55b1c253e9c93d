"""The catalogue, its stock and its users."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "brands",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("name", sa.String(length=80), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_brands")),
        sa.UniqueConstraint("name", name=op.f("uq_brands_name")),
    )
    op.create_table(
        "users",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("name", sa.String(length=40), nullable=False),
        sa.Column("role", sa.String(length=16), nullable=False),
        sa.Column("password_hash", sa.String(length=255), nullable=False),
        sa.Column("session_version", sa.Integer(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_users")),
        sa.UniqueConstraint("name", name=op.f("uq_users_name")),
    )
    op.create_table(
        "paints",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("brand_id", sa.Integer(), nullable=False),
        sa.Column("range", sa.String(length=80), nullable=False),
        sa.Column("code", sa.String(length=40), nullable=False),
        sa.Column("name", sa.String(length=120), nullable=False),
        sa.Column("hex", sa.String(length=7), nullable=False),
        sa.Column("finish", sa.String(length=16), nullable=False),
        sa.Column("stock", sa.Integer(), nullable=False),
        sa.Column("min_stock", sa.Integer(), nullable=False),
        sa.Column("price_cents", sa.Integer(), nullable=False),
        sa.Column("description", sa.Text(), nullable=False),
        sa.Column("hue", sa.Integer(), nullable=False),
        sa.Column(
            "sort_name",
            sa.String(length=360).with_variant(sa.String(length=360, collation="C"), "postgresql"),
            nullable=False,
        ),
        sa.Column("search_text", sa.Text(), nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("updated_at", sa.DateTime(timezone=True), nullable=False),
        sa.CheckConstraint("min_stock >= 0", name=op.f("ck_paints_min_stock_not_negative")),
        sa.CheckConstraint("price_cents >= 0", name=op.f("ck_paints_price_not_negative")),
        sa.CheckConstraint("stock BETWEEN 0 AND 1000000", name=op.f("ck_paints_stock_on_the_shelf")),
        sa.ForeignKeyConstraint(["brand_id"], ["brands.id"], name=op.f("fk_paints_brand_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_paints")),
        sa.UniqueConstraint(
            "brand_id", "range", "code", "name", "hex", name=op.f("uq_paints_brand_id_range_code_name_hex")
        ),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_paints_hue_id", "paints", ["hue", "id"])
    op.create_index("ix_paints_sort_name_id", "paints", ["sort_name", "id"])
    op.create_index("ix_paints_stock_id", "paints", ["stock", "id"])

    op.create_table(
        "stock_moves",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("paint_id", sa.Integer(), nullable=False),
        sa.Column("delta", sa.Integer(), nullable=False),
        sa.Column("reason", sa.String(length=120), nullable=False),
        sa.Column("user_id", sa.Integer(), nullable=True),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(
            ["paint_id"], ["paints.id"], name=op.f("fk_stock_moves_paint_id"), ondelete="CASCADE"
        ),
        sa.ForeignKeyConstraint(
            ["user_id"], ["users.id"], name=op.f("fk_stock_moves_user_id"), ondelete="SET NULL"
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_stock_moves")),
    )
    op.create_index("ix_stock_moves_paint_id_id", "stock_moves", ["paint_id", "id"])


def downgrade() -> None:
    op.drop_index("ix_stock_moves_paint_id_id", "stock_moves")

    op.drop_table("stock_moves")
    op.drop_index("ix_paints_stock_id", "paints")
    op.drop_index("ix_paints_sort_name_id", "paints")
    op.drop_index("ix_paints_hue_id", "paints")

    op.drop_table("paints")
    op.drop_table("users")
    op.drop_table("brands")
