--
-- PostgreSQL database dump
--
SET client_encoding = 'UTF8';

COPY public."LiteLLM_UserTable" (user_id, user_alias, user_email, user_role, max_budget, spend, models, tpm_limit, rpm_limit, budget_duration, metadata) FROM stdin;
u1	\N	ada@example.com	internal_user	\N	12.3	{}	\N	120	\N	{}
\.

COPY public."LiteLLM_SpendLogs" (request_id, spend) FROM stdin;
x	1
\.
