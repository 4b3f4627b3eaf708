-- The tables of one contact-centre source; run once per source with search_path set to its schema.
-- A load drops primary keys and indexes and rebuilds them afterwards (load.py).

-- One customer contact over one channel. Column names are those of the product, and become the exported field names.
CREATE TABLE IF NOT EXISTS interactions (
    "ixnId"               text PRIMARY KEY,     -- 16 characters
    status                smallint NOT NULL,    -- 2 in progress, 3 stopped; stopped <=> "endDate" is known
    "entityTypeId"        smallint NOT NULL,
    "mediaTypeId"         text NOT NULL,        -- voice, chat, email, sms, whatsapp, callback, workitem
    "typeId"              text NOT NULL,
    "subtypeId"           text NOT NULL,
    "externalId"          text,
    "ownerId"             integer,
    "contactId"           text NOT NULL,        -- contacts."ContactId", same tenant
    "parentId"            text,                 -- the interaction this one answers
    "startDate"           timestamptz NOT NULL,
    "modifiedDate"        timestamptz NOT NULL,
    "endDate"             timestamptz,
    "threadId"            text NOT NULL,        -- "ixnId" of the thread's first interaction
    "categoryId"          text,
    "timeShift"           smallint NOT NULL,    -- minutes from UTC at the customer
    subject               text,
    text                  text,
    "structuredText"      text,
    "structTextMimetype"  text,
    "theComment"          text,
    "tenantId"            text NOT NULL,
    "subtenantId"         text,
    "threadHash"          text NOT NULL,
    "canBeParent"         boolean NOT NULL,
    "creatorAppId"        integer NOT NULL,
    "queueName"           text NOT NULL,
    "allAttributes"       jsonb NOT NULL,
    "isSpam"              boolean NOT NULL,
    "webSafeEmailStatus"  text                  -- email only
);
-- Exports read one tenant's interval in order of time.
CREATE INDEX IF NOT EXISTS interactions_tenant_time ON interactions ("tenantId", "startDate");

CREATE TABLE IF NOT EXISTS contacts (
    "ContactId"     text PRIMARY KEY,           -- 16 characters
    tenantid        text NOT NULL,
    createddate     timestamptz NOT NULL,
    modifieddate    timestamptz NOT NULL,
    title           text,
    fullname        text NOT NULL,
    language        text NOT NULL,
    segment         text NOT NULL,
    emailaddresses  text[] NOT NULL,
    phonenumbers    text[] NOT NULL,
    attributes      jsonb NOT NULL
);
CREATE INDEX IF NOT EXISTS contacts_tenant_time ON contacts (tenantid, createddate);

-- No foreign key to interactions: the original has none, and it would make every load check 8 % of them.
CREATE TABLE IF NOT EXISTS attachments (
    id           text PRIMARY KEY,              -- 16 characters
    entityid     text NOT NULL,                 -- interactions."ixnId"
    tenantid     text NOT NULL,
    createddate  timestamptz NOT NULL,          -- the interaction's "startDate"
    filename     text NOT NULL,
    mimetype     text NOT NULL,
    size         integer NOT NULL,              -- bytes
    content      bytea NOT NULL
);
CREATE INDEX IF NOT EXISTS attachments_tenant_time ON attachments (tenantid, createddate);
CREATE INDEX IF NOT EXISTS attachments_entity ON attachments (entityid);
